#!/usr/bin/env python3
"""Measure how batching changes the error rate of a model with dynamic int8 scales, which all streams of a batch share.

All sessions are open at the same time and have their whole audio from the beginning, so that batches are full. Writes
dynamic_batching.md and .json.
"""

import argparse
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from parts.benchmark_report import this_run, write_report
from tqdm import tqdm
from wenet_fusion_runtime import Engine, EngineOptions, Recognizer, Update
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.model.metadata import DYNAMIC

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.export.speech import Speech, read_speech
from wenet_fusion.scoring.error_rate import ErrorCounts, score

PATIENCE = 600.0  # timeout for all sessions together, in seconds


class Outcome(NamedTuple):
    counts: ErrorCounts
    changed: int  # number of utterances whose text differs from the text without batching
    streams_per_step: float  # mean


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="exported file of precision int8-dynamic")
    parser.add_argument("list", type=Path, metavar="LIST", help="data.list of recordings and transcripts")
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4, 8, 16, 32], help="batch sizes to measure")
    parser.add_argument("--num_utterances", type=int, default=10**9, help="utterances spread over LIST (default: all)")
    parser.add_argument(
        "--quieter",
        type=float,
        default=0.0,
        metavar="DB",
        help="attenuate each recording by 0 to DB decibels, at random (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the order and of the attenuation (default: 0)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the table and the numbers")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    recognizer = Recognizer(args.model)
    if recognizer.model.meta.precision != DYNAMIC:
        raise ValueError(
            f"{args.model}: has precision {recognizer.model.meta.precision}, whose sessions do not influence "
            f"each other; export with --precision {DYNAMIC}"
        )
    speech = read_speech(args.list, recognizer.model.meta.sample_rate, args.num_utterances)
    rng = random.Random(args.seed)
    rng.shuffle(speech)
    speech = [
        each._replace(samples=each.samples * np.float32(10 ** (-rng.uniform(0, args.quieter) / 20))) for each in speech
    ]
    outcomes, alone = {}, {}
    with tqdm(total=len(speech) * (1 + len(args.batches)), unit="utt", leave=False, disable=None) as bar:
        for batch in [1, *args.batches]:
            texts, streams_per_step = transcripts(recognizer, speech, batch, bar.update)
            alone = alone or texts
            counts = score({each.key: each.text for each in speech}, texts).total
            outcomes[batch] = Outcome(counts, sum(texts[key] != alone[key] for key in texts), streams_per_step)
    run = this_run(args.seed, os.getloadavg()[0])
    rows = [
        [str(batch), f"{each.streams_per_step:.1f}", each.counts.summary(), f"{each.changed} of {len(speech)}"]
        for batch, each in outcomes.items()
    ]
    head = ["streams in a step, at most", "on average", "word error rate", "texts that batching changes"]
    text = "\n\n".join(["\n".join(run.lines()), markdown_table(head, rows)])
    print(text)
    found = {batch: each._asdict() | {"rate": each.counts.rate} for batch, each in outcomes.items()}
    write_report(args.output, "dynamic_batching", text, {"run": run, "batches": found})
    return 0


def transcripts(
    recognizer: Recognizer, speech: Sequence[Speech], batch: int, tick: Callable[[], object]
) -> tuple[dict[str, str], float]:
    """Decode all utterances at the same time. Return their texts, and the mean number of streams in a step.

    Raises:
        ValueError: a session failed.
    """
    found: dict[str, list[str]] = {each.key: [] for each in speech}
    errors: list[Exception] = []
    lock = threading.Lock()

    def take(key: str, update: Update) -> None:
        found[key] += [result.text for result in update.finals if result.text]
        with lock:
            if update.is_last:
                tick()
            if update.error:
                errors.append(update.error)

    longest = max(len(each.samples) for each in speech) / recognizer.model.meta.sample_rate
    options = EngineOptions(
        max_batch=batch, max_sessions=len(speech), max_waiting_seconds=longest + 1, batch_dynamic=True
    )
    with Engine(recognizer.model, options) as engine:
        for each in speech:
            session = engine.open(recognizer.create_stream(), lambda update, key=each.key: take(key, update))
            session.push(each.samples)
            session.end()
        if engine.drain(PATIENCE) or errors:
            raise ValueError(f"not all sessions ended well: {errors[:1]}")
        batches = engine.statistics.batches
    return {key: " ".join(texts) for key, texts in found.items()}, batches.total / batches.count


if __name__ == "__main__":
    run_main(main)
