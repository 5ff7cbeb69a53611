#!/usr/bin/env python3
"""Compare the time of the native step (of wenet-fusion-kernels) with onnxruntime and with the limits of the machine.

Both run one int8 archive with random weights and the peaked posteriors of a trained model.

A step maps samples and state to the best tokens and the next state: front-end, encoder and CTC head. The floor of a
step is a lower bound of its time: the time to read its int8 weights once from memory, or to do its int8 multiply-adds
at the peak rate of the instructions in use, whichever is longer. Steps and limits are timed by turns in one process
with one thread. The start of a new process is timed too. Writes native_step_FAMILY.md and .json, named after the
family of processors whose code ran.
"""

import argparse
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from parts.benchmark_report import Goal, goals_table, this_run, write_report
from parts.exported_files import write_int8_archive
from parts.random_models import Shape, random_model, sharpen
from parts.runtime_calls import FirstText, first_text
from parts.speed_setup import BLANK_SHARE, SHARPNESS
from parts.timing import Timing, by_turns
from tqdm import tqdm
from wenet_fusion_runtime import AcousticModel
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.model.backends import NATIVE, ONNXRUNTIME
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.model.native_backend import native_family
from wenet_fusion_runtime.model.native_table import NativeTable
from wenet_fusion_runtime.model.onnx_backend import STEP

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.encoder_config import EncoderConfig

CHUNKINGS = (Chunking(16, 4), Chunking(8, 8), Chunking(4, 16))
QUICK = EncoderConfig(dim=16, layers=2, heads=2, feed_forward=32, conv_kernel=4, subsampling_channels=4, max_distance=8)
VOCABULARY, QUICK_VOCABULARY = 5000, 20
# Goals for one stream, by instruction set and frames per chunk: time of onnxruntime divided by the native step's.
LEAST_GAIN = {
    "amx": {16: 1.9, 4: 1.5}, "avx512_vnni": {16: 1.6, 4: 1.5}, "avx2": {16: 1.1, 8: 1.1, 4: 1.1},
}  # fmt: skip
LEAST_BATCH_GAIN, BATCH_STREAMS = 2.0, 16  # the goal for a batch, and its number of streams
MOST_FLOOR_RATIO = 1.5  # goal: time of the products divided by the floor
STARTS = 5  # new processes
MOST_START_SECONDS, MOST_OTHER_MB = 0.5, 80.0  # goals: seconds to the first text; resident memory without the weights
CALIBRATION_SECONDS = 8
PRODUCTS, READ, MULTIPLY = "products", "read", "multiply"  # names of the timed functions of `Limits`
READ_BYTES, MULTIPLY_ADDS = 256_000_000, 400_000_000  # in one call of READ and of MULTIPLY


class Measured(NamedTuple):
    """The times of a step of one shape: on each backend, and of the calls that give its limits."""

    shape: Shape
    weights: int  # bytes of int8 weights; each weight is multiplied once per encoder frame
    times: dict[str, Timing]  # by backend, and by PRODUCTS, READ and MULTIPLY
    multiply_adds: int  # in one call of MULTIPLY

    @property
    def gain(self) -> float:
        """The time of onnxruntime divided by the time of the native step."""
        return self.times[ONNXRUNTIME].median / self.times[NATIVE].median

    @property
    def read(self) -> float:
        """Milliseconds to read the weights once at the measured bandwidth."""
        return self.weights * self.times[READ].median / READ_BYTES

    @property
    def multiply(self) -> float:
        """Milliseconds to do the step's multiply-adds at the measured peak rate."""
        total = self.weights * self.shape.batch * self.shape.chunking.size
        return total * self.times[MULTIPLY].median / self.multiply_adds

    @property
    def floor(self) -> float:
        """Lower bound of the step's time in milliseconds."""
        return max(self.read, self.multiply)

    @property
    def streams(self) -> float:
        """The number of real-time streams that one core can step if it does nothing else."""
        chunk_ms = 40 * self.shape.chunking.size
        return self.shape.batch * chunk_ms / self.times[NATIVE].median


def parse_step_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, rounds: int, timed: int
) -> argparse.Namespace:
    """Add the options of a benchmark of steps, with these defaults, and parse the arguments.

    Raises:
        ValueError: a number is less than 1.
    """
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="streams per step (default: 1 16)")
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each model (default: %(default)s)")
    parser.add_argument("--timed", type=int, default=timed, help="measured steps in a turn (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the audio (default: 0)")
    parser.add_argument("--shared", action="store_true", help="other work uses the core: count processor time only")
    parser.add_argument("--quick", action="store_true", help="use a toy encoder and 2 rounds, to test the program")
    parser.add_argument("--output", type=Path, required=True, help="folder for the table and the numbers")
    args = parser.parse_args(arguments)
    if min([args.rounds, args.timed, *args.batches]) < 1:
        raise ValueError("--rounds, --timed and --batches must be 1 or more")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args = parse_step_arguments(parser, arguments, rounds=12, timed=4)
    torch.set_num_threads(1)
    family = native_family()
    config, vocabulary = (QUICK, QUICK_VOCABULARY) if args.quick else (EncoderConfig(), VOCABULARY)
    shapes = [Shape(chunking, batch) for chunking in CHUNKINGS for batch in sorted(set(args.batches))]
    rounds, rng = 2 if args.quick else args.rounds, np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.zip"
        trained = random_model(config, CHUNKINGS, vocabulary, args.seed)
        count = CALIBRATION_SECONDS * trained.config.model.frontend.sample_rate
        noise = rng.normal(0, 0.1, count).astype(np.float32)
        sharpen(trained, torch.from_numpy(noise), BLANK_SHARE, SHARPNESS)
        write_int8_archive(trained, noise, path)
        models = {name: load_model(path, backend=name) for name in (NATIVE, ONNXRUNTIME)}
        limits = Limits(path)
        started = {name: first_text(path, noise, 1 if args.quick else STARTS, name) for name in models}
    measured = []
    with tqdm(total=len(shapes) * (len(models) + 3) * rounds, unit="turn", leave=False, disable=None) as bar:
        for shape in shapes:
            calls = {name: steps(model, shape, rng) for name, model in models.items()} | limits.calls(shape)
            times = by_turns(calls, rounds, args.timed, bar.update, shared=args.shared)
            measured.append(Measured(shape, limits.weights, times, limits.multiply_adds))
    run = this_run(args.seed, os.getloadavg()[0])
    text = "\n\n".join([f"# The native step ({family})", "\n".join(run.lines()), *tables(measured, family, started)])
    print(text)
    found = {each.shape.label: record(each) for each in measured}
    starts = {name: each._asdict() for name, each in started.items()}
    record_of_run = {"run": run, "family": family, "steps": found, "new processes": starts}
    write_report(args.output, f"native_step_{family}", text, record_of_run)
    return 0


class Limits:
    """Functions whose times give the limits of the machine for the steps of an archive.

    Args:
        path: path of the archive.
    """

    def __init__(self, path: Path):
        import wenet_fusion_kernels as kernels

        with zipfile.ZipFile(path) as archive:
            table, step = NativeTable.parse(archive.read("native.json")), archive.read(STEP)
        self._kernels = kernels
        self._model = kernels.FusedModel(kernels.Sizes(**table.sizes), table.arrays(step), table.ranges)
        self.weights = sum(math.prod(each.shape) for each in table.tensors if each.dtype == "int8")
        self._turns = MULTIPLY_ADDS // kernels.multiply(1)
        self.multiply_adds = self._turns * kernels.multiply(1)
        self._array = np.ones(READ_BYTES // 8)

    def calls(self, shape: Shape) -> dict[str, Callable[[], object]]:
        """Return functions that run only the products of a step, read memory, and multiply in registers."""
        rows = shape.batch * shape.chunking.size
        return {
            PRODUCTS: lambda: self._model.run_products(rows),
            READ: self._array.sum,
            MULTIPLY: lambda: self._kernels.multiply(self._turns),
        }


def tables(measured: Sequence[Measured], family: str, started: Mapping[str, FirstText]) -> list[str]:
    """Return the table that docs/performance.md quotes, the goals, the limits, and the start of new processes."""
    head = ["chunk/left x streams", f"native ({family}), ms", "onnxruntime, ms", "gain"]
    rows = [
        [each.shape.label, *(f"{each.times[name].median:.2f}" for name in (NATIVE, ONNXRUNTIME)), f"{each.gain:.2f}"]
        for each in measured
    ]
    goals = []
    for each in measured:
        what = f"{each.shape.label}: time of onnxruntime int8 / of the native step ({family})"
        least = LEAST_GAIN.get(family, {}).get(each.shape.chunking.size)
        if each.shape.batch == 1 and least is not None:
            goals.append(Goal(what, least, each.gain))
        if each.shape.batch == BATCH_STREAMS:
            goals.append(Goal(what, LEAST_BATCH_GAIN, each.gain))
        ratio = each.times[PRODUCTS].median / each.floor
        what = f"{each.shape.label}: int8 products alone / floor"
        goals.append(Goal(what, MOST_FLOOR_RATIO, ratio, at_most=True))
    native, weights_mb = started[NATIVE], measured[0].weights / 1e6
    what = "native: seconds from a new process to its first text"
    goals.append(Goal(what, MOST_START_SECONDS, native.seconds, at_most=True))
    what = f"native: resident MB at the first text, without {weights_mb:.1f} MB of weights"
    goals.append(Goal(what, MOST_OTHER_MB, native.resident_bytes / 1e6 - weights_mb, at_most=True))
    limits = [
        [
            each.shape.label, f"{each.read:.2f}", f"{each.multiply:.2f}", f"{each.times[PRODUCTS].median:.2f}",
            f"{each.times[PRODUCTS].median / each.floor:.2f}", f"{each.times[NATIVE].median / each.floor:.2f}",
            f"{each.streams:.0f}",
        ]
        for each in measured
    ]  # fmt: skip
    limits_head = [
        "chunk/left x streams", "reading the weights, ms", "multiply-adds, ms", "int8 products alone, ms",
        "products / floor", "step / floor", "streams per core, at most",
    ]  # fmt: skip
    return [
        markdown_table(head, rows),
        describe(measured, family),
        goals_table(goals),
        markdown_table(limits_head, limits),
        markdown_table(
            ["a new process", "seconds to its first text", "resident MB then"],
            [[name, f"{each.seconds:.2f}", f"{each.resident_bytes / 1e6:.0f}"] for name, each in started.items()],
        ),
    ]


def describe(measured: Sequence[Measured], family: str) -> str:
    """Return sentences on the limits of the machine, which are medians over all shapes."""
    bandwidth = READ_BYTES / 1e6 / float(np.median([each.times[READ].median for each in measured]))
    peak = measured[0].multiply_adds / 1e6 / float(np.median([each.times[MULTIPLY].median for each in measured]))
    return (
        f"The floor of a step is the longer of two times: the time to read its {measured[0].weights / 1e6:.1f} MB of "
        "int8 weights once from memory, and the time of its int8 multiply-adds at the peak rate of the instructions in "
        f"use ({family}). One core read {bandwidth:.1f} GB/s, and did {peak:.1f} billion multiply-adds per second in "
        "registers. "
        "Products in float and all other work are not part of the floor. The last column of the last table is the "
        "number of real-time streams that one core can step if it does nothing else: no audio, search or server."
    )


def record(measured: Measured) -> Mapping[str, Any]:
    """Return the measurements of a shape for JSON."""
    times = {name: timing._asdict() for name, timing in measured.times.items()}
    return {**times, "gain": measured.gain, "read_ms": measured.read, "multiply_ms": measured.multiply}


def steps(model: AcousticModel, shape: Shape, rng: np.random.Generator) -> Callable[[], object]:
    """Return a function that runs the next step of streams whose left context is full."""
    size, left = shape.chunking
    count = size * model.meta.frame_samples
    samples = rng.normal(0, 0.1, (shape.batch, count + model.meta.lookahead_samples)).astype(np.float32)
    lengths = [count] * shape.batch
    state = model.init_state(shape.batch, size, left)

    def call() -> None:
        nonlocal state
        _, state = model.step(samples, lengths, size, left, state)

    for _ in range(left + 1):
        call()
    return call


if __name__ == "__main__":
    run_main(main)
