#!/usr/bin/env python3
"""Time a streaming step of our encoder and of a LayerNorm Conformer of the same shape on a GPU, in three precisions.

All variants take turns in one process, with random weights. A step maps features and state to frames and the next
state, all on the GPU; its time runs from the call until the device has finished. Writes gpu.md (milliseconds per step,
streams in real time) and gpu.json.
"""

import argparse
import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from encoder_speed import QUICK, SIZES
from parts.benchmark_report import this_run, write_report
from parts.candidates import CONFORMER, OURS, Builder, Sizes
from parts.encoder_variants import Call, EncoderVariant, torch_variant, tuned_encoder
from parts.random_models import Shape, conformer
from parts.timing import Timing, by_turns
from tqdm import tqdm
from wenet_fusion_runtime.console import run_main

from wenet_fusion.cli.arguments import device
from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.model.asr_model import FrontendConfig
from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.model.encoder import Encoder

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PLAIN = f"{OURS} as trained"  # norms are folded, but layers are not packed as for export

Times = Mapping[Shape, Mapping[str, Timing]]  # by the variant's name


class Streams(NamedTuple):
    """The number of streams that one GPU serves in real time."""

    count: int
    batch: int  # streams per step


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ... (default: cuda)")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=BATCHES, help="streams per step (default: 1 2 4 ... 256)"
    )
    parser.add_argument("--rounds", type=int, default=20, help="turns of each variant (default: 20)")
    parser.add_argument("--timed", type=int, default=5, help="measured steps in a turn (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    parser.add_argument("--quick", action="store_true", help="use a toy encoder and 2 rounds, to test the program")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables and the numbers")
    args = parser.parse_args(arguments)
    if min([args.rounds, args.timed, *args.batches]) < 1:
        raise ValueError("--rounds, --timed and --batches must be 1 or more")
    where = device(args.device, "this benchmark needs a GPU; --device cpu --quick shows that everything runs")
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # no TF32
    sizes, rounds = (QUICK, 2) if args.quick else (SIZES, args.rounds)
    batches = sorted(set(args.batches))
    shapes = [Shape(chunking, batch) for chunking in sizes.chunkings for batch in batches]
    times = measure(build(sizes, args.seed, where), shapes, rounds, args.timed, where)
    run, hardware = this_run(args.seed, os.getloadavg()[0]), describe(where)
    text = "\n\n".join(
        [
            "\n".join([*run.lines(), f"On {hardware}."]),
            f"Medians of {rounds * args.timed} steps ({rounds} rounds of {args.timed}). The variants take turns. "
            "float32 is without TF32.",
            *(steps_table(times, chunking) for chunking in sizes.chunkings),
            "Number of streams for which the encoder alone is fast enough in real time. The number in brackets is the "
            "batch size: batches of this size are stepped one after the other, all within the duration of a chunk.",
            streams_table(times, sizes.chunkings),
        ]
    )
    print(text)
    plain = {shape.label: {name: timing._asdict() for name, timing in found.items()} for shape, found in times.items()}
    write_report(args.output, "gpu", text, {"run": run, "device": hardware, "encoder": sizes.encoder, "times": plain})
    return 0


def build(sizes: Sizes, seed: int, where: torch.device) -> list[EncoderVariant]:
    """Build each model in each precision, in TorchScript on the device."""
    builder = Builder(sizes, seed, Path())  # unused: no graphs are written
    models: dict[str, Encoder] = {
        CONFORMER: builder.plain(conformer(sizes.encoder), separate=True),
        PLAIN: builder.plain(sizes.encoder),
        OURS: tuned_encoder(builder.model(sizes.encoder), "float32", seed),
    }
    return [
        torch_variant(f"{model}, {name}", "float", copy.deepcopy(encoder).to(where, dtype), frozen=False)
        for model, encoder in models.items()
        for name, dtype in DTYPES.items()
    ]


def measure(
    variants: Sequence[EncoderVariant], shapes: Sequence[Shape], rounds: int, timed: int, where: torch.device
) -> Times:
    times = {}
    for shape in shapes:
        calls = {variant.name: finished(variant.prepare(shape), where) for variant in variants}
        with tqdm(total=rounds * len(calls), desc=shape.label, unit="turn", leave=False, disable=None) as bar:
            times[shape] = by_turns(calls, rounds, timed, bar.update, waits=True)
    return times


def finished(call: Call, where: torch.device) -> Call:
    """Wrap a call so that it returns only when the device has finished."""

    def whole() -> None:
        call()
        if where.type == "cuda":
            torch.cuda.synchronize(where)

    return whole


def describe(where: torch.device) -> str:
    if where.type != "cuda":
        return f"{where.type}, which is no GPU: these numbers mean nothing"
    found = torch.cuda.get_device_properties(where)
    return f"one {found.name} ({found.total_memory / 2**30:.0f} GiB), CUDA {torch.version.cuda}"


def steps_table(times: Times, chunking: Chunking) -> str:
    """Return a table of milliseconds per step of a whole batch."""
    found = {shape.batch: timings for shape, timings in times.items() if shape.chunking == chunking}
    names = next(iter(found.values()))
    columns = [f"{batch} streams" if batch > 1 else "1 stream" for batch in found]
    head = [f"ms per step, {chunking_label(chunking)}", *columns]
    return markdown_table(
        head, [[name, *(f"{timings[name].median:.2f}" for timings in found.values())] for name in names]
    )


def streams_table(times: Times, chunkings: Sequence[Chunking]) -> str:
    names = next(iter(times.values()))
    rows = []
    for name in names:
        served = [real_time(times, chunking, name) for chunking in chunkings]
        rows.append([name, *(f"{found.count} ({found.batch})" for found in served)])
    return markdown_table(["streams per GPU", *map(chunking_label, chunkings)], rows)


def real_time(times: Times, chunking: Chunking, name: str) -> Streams:
    """Return the largest number of streams in real time, and its batch size; 0 if every step takes longer than its
    chunk.
    """
    chunk_ms = 1000 * chunking.size * FrontendConfig().frame_samples / FrontendConfig().sample_rate
    found = [
        Streams(int(shape.batch * chunk_ms / timings[name].median), shape.batch)
        for shape, timings in times.items()
        if shape.chunking == chunking and timings[name].median <= chunk_ms
    ]
    return max(found, default=Streams(0, 0))


if __name__ == "__main__":
    run_main(main)
