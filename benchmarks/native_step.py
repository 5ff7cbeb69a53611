#!/usr/bin/env python3
"""Time the native step against onnxruntime, on one int8 archive with random weights.

A step maps samples and state to the best tokens and the next state: front-end, encoder and CTC head. Both run by turns
in one process with one thread. Needs wenet-fusion-kernels. Writes native_step.md and .json.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from parts.benchmark_report import Goal, goals_table, this_run, write_report
from parts.random_models import Shape, random_model
from parts.subjects import write_int8_archive
from parts.timing import Timing, by_turns
from tqdm import tqdm
from wenet_fusion_runtime import AcousticModel
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.model.engines import NATIVE, ONNXRUNTIME
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.model.native_backend import native_family

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.encoder_config import EncoderConfig

CHUNKINGS = (Chunking(16, 4), Chunking(8, 8), Chunking(4, 16))
QUICK = EncoderConfig(dim=16, layers=2, heads=2, feed_forward=32, conv_kernel=4, subsampling_channels=4, max_distance=8)
VOCABULARY, QUICK_VOCABULARY = 5000, 20
LEAST_GAIN = {"avx2": 1.1}  # of one stream, by family of processors; the goals
CALIBRATION_SECONDS = 8


class Measured(NamedTuple):
    """The times of a step of one shape, by backend."""

    shape: Shape
    times: dict[str, Timing]

    @property
    def gain(self) -> float:
        """How many times as fast as onnxruntime the native step is."""
        return self.times[ONNXRUNTIME].median / self.times[NATIVE].median


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="streams per step (default: 1 16)")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each backend (default: 12)")
    parser.add_argument("--timed", type=int, default=4, help="measured steps in a turn (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the audio (default: 0)")
    parser.add_argument("--quick", action="store_true", help="use a toy encoder and 2 rounds, to test the program")
    parser.add_argument("--output", type=Path, required=True, help="folder for the table and the numbers")
    args = parser.parse_args(arguments)
    if min([args.rounds, args.timed, *args.batches]) < 1:
        raise ValueError("--rounds, --timed and --batches must be 1 or more")
    torch.set_num_threads(1)
    family = native_family()
    config, vocabulary = (QUICK, QUICK_VOCABULARY) if args.quick else (EncoderConfig(), VOCABULARY)
    shapes = [Shape(chunking, batch) for chunking in CHUNKINGS for batch in sorted(set(args.batches))]
    rounds, rng = 2 if args.quick else args.rounds, np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.zip"
        trained = random_model(config, CHUNKINGS, vocabulary, args.seed)
        noise = rng.normal(0, 0.1, CALIBRATION_SECONDS * trained.config.model.frontend.sample_rate)
        write_int8_archive(trained, noise.astype(np.float32), path)
        models = {name: load_model(path, backend=name) for name in (NATIVE, ONNXRUNTIME)}
    measured = []
    with tqdm(total=len(shapes) * len(models) * rounds, unit="turn", leave=False, disable=None) as bar:
        for shape in shapes:
            calls = {name: steps(model, shape, rng) for name, model in models.items()}
            measured.append(Measured(shape, by_turns(calls, rounds, args.timed, bar.update)))
    run = this_run(args.seed, os.getloadavg()[0])
    rows = [
        [each.shape.label, *(f"{each.times[name].median:.2f}" for name in models), f"{each.gain:.2f}"]
        for each in measured
    ]
    goals = [
        Goal(f"{each.shape.label}: native step ({family}) to onnxruntime int8", LEAST_GAIN[family], each.gain)
        for each in measured
        if each.shape.batch == 1 and family in LEAST_GAIN
    ]
    head = ["chunk/left x streams", f"native ({family}), ms", "onnxruntime, ms", "gain"]
    tables = [markdown_table(head, rows), *([goals_table(goals)] if goals else [])]
    text = "\n\n".join(["# The native step", "\n".join(run.lines()), *tables])
    print(text)
    found = {
        each.shape.label: {name: timing._asdict() for name, timing in each.times.items()} | {"gain": each.gain}
        for each in measured
    }
    write_report(args.output, "native_step", text, {"run": run, "family": family, "steps": found})
    return 0


def steps(model: AcousticModel, shape: Shape, rng: np.random.Generator) -> Callable[[], object]:
    """Return a call that runs the next step of streams whose left context is full."""
    size, left = shape.chunking
    samples = rng.normal(0, 0.1, (shape.batch, size * model.meta.frame_samples)).astype(np.float32)
    lengths = [samples.shape[1]] * shape.batch
    state = model.init_state(shape.batch, size, left)

    def call() -> None:
        nonlocal state
        _, state = model.step(samples, lengths, size, left, state)

    for _ in range(left + 1):
        call()
    return call


if __name__ == "__main__":
    run_main(main)
