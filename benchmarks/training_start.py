#!/usr/bin/env python3
"""Time the start of a training: seconds and memory from the list to the first batch, and the padding of its batches.

Simulates lists as long as LibriSpeech (281,000 utterances, lengths and transcripts alike) whose
audio is never opened, in one process each. Writes training-start.md and training-start.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from parts.benchmark_report import Goal, goals_table, this_run, write_report
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.results.vocabulary import WORD_START

from wenet_fusion.data.batching import epoch_batches, padding_fraction
from wenet_fusion.data.loading import iterate
from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.recipe import build_dataset, read_recipe
from wenet_fusion.text.tokenizer import build_tokenizer

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
CONFIG = "tokenizer: {units: units.txt}\ndata: {max_skipped: 1.0}\ntraining: {max_batch_seconds: 400, num_workers: 2}\n"
SECONDS, MEGABYTES = 30.0, 1000.0  # wanted of 281,000 utterances


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--utterances", type=int, nargs="+", default=[28_000, 281_000], help="lengths of the lists (default: both)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the lists (default: 0)")
    parser.add_argument("--output", type=Path, help="folder for the table and the numbers")
    parser.add_argument("--start_in", type=Path, help=argparse.SUPPRESS)  # the process that is measured
    args = parser.parse_args(arguments)
    if args.start_in:
        print(json.dumps(start(args.start_in)))
        return 0
    if min(args.utterances) < 1000:
        raise ValueError("--utterances must be 1000 or more")
    found = {count: measure_start(count, args.seed) for count in args.utterances}
    head = ["utterances", "seconds to the first batch", "of these on the processor", "MB", "MB per worker", "padding"]
    rows = [
        [
            f"{count:,}",
            f"{numbers['seconds']:.1f}",
            f"{numbers['processor']:.1f}",
            f"{numbers['megabytes']:.0f}",
            ", ".join(f"{megabytes:.0f}" for megabytes in numbers["workers"]),
            f"{100 * numbers['padding']:.1f} %",
        ]
        for count, numbers in found.items()
    ]
    largest = found[max(found)]
    goals = [
        Goal("seconds to the first batch", SECONDS, largest["seconds"], at_most=True),
        Goal("MB of the process", MEGABYTES, largest["megabytes"], at_most=True),
    ]
    run = this_run(args.seed, os.getloadavg()[0])
    text = "\n\n".join(["\n".join(run.lines()), markdown_table(head, rows), goals_table(goals)])
    print(text)
    if args.output:
        write_report(args.output, "training-start", text, {"run": run, "start": found, "goals": goals})
    return 0


def measure_start(count: int, seed: int) -> dict:
    """Return the numbers of a start with a list of that length, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), count, seed)
        command = [sys.executable, __file__, "--start_in", folder]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {**json.loads(done.stdout.splitlines()[-1]), "whole_process": time.monotonic() - started}


def write_corpus(folder: Path, count: int, seed: int) -> None:
    """Write a list whose paths do not exist, except those of the longest and of some others; texts repeat."""
    rng = np.random.default_rng(seed)
    tokens = ("<blank>", "<unk>", "<sos/eos>", WORD_START, *LETTERS)
    (folder / "units.txt").write_text("".join(f"{token} {number}\n" for number, token in enumerate(tokens)))
    (folder / "train.yaml").write_text(CONFIG)
    sound = folder / "one.flac"
    soundfile.write(sound, rng.uniform(-0.1, 0.1, 12 * 16000), 16000)
    letters = np.array(list("ETAOINSHRDLU      "))
    texts = [" ".join("".join(letters[rng.integers(len(letters), size=size)]).split()) for size in range(10, 520)]
    seconds = np.clip(rng.beta(5, 2, count) * 17.5, 1.0, 35.0)
    with open(folder / "data.list", "w") as file:
        for number, duration in enumerate(seconds.tolist()):
            key = f"{1000 + number % 2338}-{100000 + number // 100}-{number:07d}"
            path = f"/corpora/LibriSpeech/train-other-500/{key.replace('-', '/')}/{key}.flac"
            if abs(duration - 12) < 0.05:
                path, duration = str(sound), 12.0
            text = texts[int(15 * duration)]
            file.write(json.dumps({"key": key, "wav": path, "txt": text, "duration": round(duration, 6)}) + "\n")


def start(folder: Path) -> dict:
    """Do what training does before its first step, and return how long it took and how much memory it needs."""
    started = time.monotonic()
    os.chdir(folder)
    config = read_recipe(Path("train.yaml"), [])
    dataset = build_dataset(config, Path("data.list"), build_tokenizer(config.tokenizer, Path()), augmented=True)
    dataset.description()
    dataset.notes()
    for measured in (dataset.digest, dataset.contents):
        assert measured
    training = config.training
    limits = (training.max_batch_seconds, training.max_batch_rows)
    from_epoch = epoch_batches(dataset.seconds, *limits, seed=config.seed, epoch=0)
    readable = np.flatnonzero(dataset.seconds == 12.0).tolist()
    first = [readable[:30], readable[30:60], *from_epoch]
    batches = iterate(dataset, first, epoch=0, num_workers=training.num_workers)
    next(batches)
    seconds = time.monotonic() - started
    workers = [_unshared(child) for child in _children(os.getpid())]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "processor": usage.ru_utime + usage.ru_stime,
        "megabytes": usage.ru_maxrss / 1024,
        "workers": workers,
        "padding": padding_fraction(dataset.seconds, from_epoch),
        "batches": len(from_epoch),
    }


def _children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(number) for number in text.split()]


def _unshared(process: int) -> float:
    """Return the memory that a process shares with no other, MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
    run_main(main)
