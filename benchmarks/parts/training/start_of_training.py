"""Measure the start of a training: time from its command to the first batch, and memory.

The lists imitate LibriSpeech (281,000 utterances, with similar lengths and transcripts); most audio files do not exist.
Each start runs in a new process: `python -m parts.training.start_of_training FOLDER START`; START is the time of the
monotonic clock, in seconds, at which the process was started.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from parts.benchmark_report import Goal, goals_table
from wenet_fusion_runtime.results.vocabulary import WORD_START

from wenet_fusion.data.batching import epoch_batches, padding_fraction
from wenet_fusion.data.loading import iterate
from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.recipe import build_dataset, read_recipe
from wenet_fusion.text.tokenizer import build_tokenizer

BENCHMARKS = Path(__file__).parents[2]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
CONFIG = "tokenizer: {units: units.txt}\ndata: {max_skipped: 1.0}\ntraining: {max_batch_seconds: 400, num_workers: 2}\n"
SECONDS, MEGABYTES = 30.0, 1000.0  # goals for 281,000 utterances


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--utterances", type=int, nargs="+", default=[28_000, 281_000], help="list lengths (default: 28000 281000)"
    )


def measure(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return the section's text and its numbers."""
    if min(args.utterances) < 1000:
        raise ValueError("--utterances must be 1000 or more")
    found = {count: measure_start(count, args.seed) for count in args.utterances}
    head = ["utterances", "seconds to the first batch", "of these for imports", "processor seconds", "MB"]
    rows = [
        [
            f"{count:,}",
            *(f"{numbers[name]:.1f}" for name in ("seconds", "imports", "processor")),
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
    text = "\n\n".join([markdown_table([*head, "MB per worker", "padding"], rows), goals_table(goals)])
    return text, {"start": found, "goals": goals}


def measure_start(count: int, seed: int) -> dict[str, Any]:
    """Measure a start with a list of this length in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), count, seed)
        command = [sys.executable, "-m", "parts.training.start_of_training", folder, str(time.monotonic())]
        done = subprocess.run(command, cwd=BENCHMARKS, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def write_corpus(folder: Path, count: int, seed: int) -> None:
    """Write a list of utterances. Only those of about 12 s name a file that exists. Texts repeat."""
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


def start(folder: Path, commanded: float) -> dict[str, Any]:
    """Do everything that training does before its first step, and return time and memory.

    `commanded` is the time of the monotonic clock, in seconds, at which the process was started.
    """
    started = time.monotonic()
    os.chdir(folder)
    config = read_recipe(Path("train.yaml"), [])
    dataset = build_dataset(config, Path("data.list"), build_tokenizer(config.tokenizer, Path()), augmented=True)
    for _ in range(2):  # training also calls both methods twice
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
    seconds = time.monotonic() - commanded
    workers = [_unshared(child) for child in _children(os.getpid())]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "imports": started - commanded,
        "processor": usage.ru_utime + usage.ru_stime,
        "megabytes": _status("VmHWM") / 1024,  # ru_maxrss would include the parent process
        "workers": workers,
        "padding": padding_fraction(dataset.seconds, from_epoch),
        "batches": len(from_epoch),
    }


def _children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(number) for number in text.split()]


def _status(name: str) -> int:
    """Return a value in kB from this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _unshared(process: int) -> float:
    """Return the private memory of a process in MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
    print(json.dumps(start(Path(sys.argv[1]), float(sys.argv[2]))))
