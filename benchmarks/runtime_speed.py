#!/usr/bin/env python3
"""Time the whole runtime, audio in and text out, beside the encoder alone in the same process, with one thread.

The weights are random, with the peaked, mostly blank posteriors of a trained CTC head. Also timed:
rescoring of a 20 s segment, and a new process until its first text. Writes runtime.md and runtime.json.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from parts.benchmark_report import Goal, goals_table, this_run, write_report
from parts.random_models import random_model, sharpen
from parts.runtime_calls import (
    ENCODER,
    FED_SECONDS,
    HYPOTHESES,
    PARTS,
    Calls,
    confidence,
    first_text_seconds,
    rescoring_calls,
    steps_of,
    whole_calls,
    whole_chunks,
)
from parts.subjects import build
from parts.timing import Timing, by_turns
from tqdm import tqdm
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder_config import EncoderConfig

WHOLE_GOAL, START_GOAL = 1.25, 3.0
BLANK_SHARE, SHARPNESS = 0.85, 20.0
SAMPLE_RATE = 16000
SEGMENT_SECONDS = 20
STARTS = 5  # new processes for each file

Times = Mapping[str, Timing]


class Sizes(NamedTuple):
    encoder: EncoderConfig
    decoder: DecoderConfig
    vocabulary: int
    chunkings: tuple[Chunking, ...]
    seconds: float  # of audio that a stream gets


SIZES = Sizes(EncoderConfig(), DecoderConfig(), 5000, (Chunking(16, 4), Chunking(4, 16)), 2.0)
QUICK = Sizes(
    EncoderConfig(dim=16, layers=2, heads=2, feed_forward=32, conv_kernel=4, subsampling_channels=4, max_distance=8),
    DecoderConfig(layers=1, reverse_layers=1, heads=2, feed_forward=32), 50, (Chunking(8, 2),), 2.0,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of everything (default: 15)")
    parser.add_argument("--timed", type=int, default=2, help="calls in a turn that count (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and audio (default: 0)")
    parser.add_argument("--quick", action="store_true", help="a toy model and 2 rounds: shows that everything runs")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables and the numbers")
    args = parser.parse_args(arguments)
    if min(args.rounds, args.timed) < 1:
        raise ValueError("--rounds and --timed must be 1 or more")
    torch.set_num_threads(1)
    sizes, rounds, starts = (QUICK, 2, 1) if args.quick else (SIZES, args.rounds, STARTS)
    noise = np.random.default_rng(args.seed).normal(0, 0.1, SAMPLE_RATE * SEGMENT_SECONDS).astype(np.float32)
    samples = noise[: int(sizes.seconds * SAMPLE_RATE)]
    trained = random_model(sizes.encoder, sizes.chunkings, sizes.vocabulary, args.seed, sizes.decoder)
    sharpen(trained, torch.from_numpy(noise), BLANK_SHARE, SHARPNESS)

    whole: dict[Chunking, Times] = {}
    with tempfile.TemporaryDirectory() as folder:
        subjects = build(trained, noise, Path(folder), args.seed)
        sure = confidence(subjects[0].model, sizes.chunkings[0], noise)
        for chunking in sizes.chunkings:
            calls = whole_calls(subjects, chunking, whole_chunks(subjects[0].model, chunking, samples))
            whole[chunking] = measure(calls, rounds, args.timed, chunking_label(chunking))
        rescoring = measure(rescoring_calls(subjects, sizes.chunkings[0], noise), rounds, args.timed, "rescoring")
        bar = tqdm(subjects, desc="new processes", leave=False, disable=None)
        first_text = {subject.name: first_text_seconds(subject.path, noise, starts) for subject in bar}
    run = this_run(args.seed, os.getloadavg()[0])

    names = [subject.name for subject in subjects]
    steps = {
        chunking: steps_of(subjects[0].model, chunking, whole_chunks(subjects[0].model, chunking, samples))
        for chunking in whole
    }
    goals = [goal for chunking, times in whole.items() for goal in whole_goals(times, names, chunking_label(chunking))]
    goals += [
        Goal(f"{name}: seconds from a new process to its first text", START_GOAL, found, at_most=True)
        for name, found in first_text.items()
    ]
    text = "\n\n".join(
        [
            "\n".join(run.lines()),
            f"{sizes.seconds:g} s of noise, fed {FED_SECONDS:g} s at a time; {sizes.vocabulary} tokens; whole chunks "
            f"only. Medians of {rounds * args.timed} calls ({rounds} rounds of {args.timed}); the calls take turns. "
            f"A frame's most probable token has a mean probability of {sure.best:.2f}. It is blank in "
            f"{100 * sure.blank:.0f} % of the frames.",
            *(
                f"At {chunking_label(chunking)}:\n\n{whole_table(times, names, steps[chunking])}"
                for chunking, times in whole.items()
            ),
            f"Rescoring of {SEGMENT_SECONDS} s:\n\n{rescoring_table(rescoring, names)}",
            goals_table(goals),
        ]
    )
    print(text)
    tables = {chunking_label(chunking): times for chunking, times in whole.items()} | {"rescoring": rescoring}
    times = {title: {name: timing._asdict() for name, timing in found.items()} for title, found in tables.items()}
    record = {"run": run, "goals": goals, "first_text_seconds": first_text, "times": times}
    write_report(args.output, "runtime", text, record)
    return 0


def measure(calls: Calls, rounds: int, timed: int, title: str) -> dict[str, Timing]:
    with tqdm(total=rounds * len(calls), desc=title, unit="turn", leave=False, disable=None) as bar:
        return by_turns(calls, rounds, timed, bar.update)


def whole_table(times: Times, names: Sequence[str], steps: int) -> str:
    """Tabulate milliseconds per chunk, and the whole relative to the encoder alone."""
    rows = []
    for name in names:
        found = [times[f"{name}: {part}"].median / steps for part in PARTS]
        ratios = ["" if part in PARTS[:2] else f" ({value / found[0]:.2f} x)" for part, value in zip(PARTS, found)]
        rows.append([name, *(f"{value:.2f}{ratio}" for value, ratio in zip(found, ratios))])
    return markdown_table(["ms per chunk", *(part.replace("_", " ") for part in PARTS)], rows)


def whole_goals(times: Times, names: Sequence[str], label: str) -> list[Goal]:
    """Return the goals of the whole runtime relative to the encoder alone."""
    return [
        Goal(
            f"{label}, {name}, {mode.replace('_', ' ')}: whole / encoder alone", WHOLE_GOAL,
            times[f"{name}: {mode}"].median / times[f"{name}: {ENCODER}"].median, at_most=True,
        )
        for name in names
        for mode in (GREEDY, PREFIX_BEAM)
    ]  # fmt: skip


def rescoring_table(times: Times, names: Sequence[str]) -> str:
    head = ["ms per segment", *(f"{count} hypotheses" for count in HYPOTHESES)]
    return markdown_table(
        head, [[name, *(f"{times[f'{name}: {count}'].median:.0f}" for count in HYPOTHESES)] for name in names]
    )


if __name__ == "__main__":
    run_main(main)
