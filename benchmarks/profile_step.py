#!/usr/bin/env python3
"""Profile one streaming step in int8: milliseconds per operator, and the bandwidth of reading weights.

The report lists the most expensive operators of each variant; the profiler itself takes time, so shares are more
reliable than sums. A second table compares the bandwidth at which matrix products read their weights with the memory
bandwidth of this core. Writes profile.md and profile.json.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from encoder_speed import QUICK, SIZES
from parts.benchmark_report import this_run, write_report
from parts.candidates import CONFORMER, INT8, INT8_DYNAMIC, ONNX_INT8, ONNX_INT8_DYNAMIC, OURS, Builder
from parts.encoder_variants import (
    Call,
    dynamic_int8,
    onnx_call,
    quantise,
    static_onnx_encoder,
    torch_variant,
    tuned_encoder,
    write_graph,
)
from parts.random_models import Shape, conformer
from tqdm import tqdm
from wenet_fusion_runtime.console import run_main

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.export.kernels.onnx_int8 import DOMAIN
from wenet_fusion.model.chunking import chunking_label

# Beginnings of the names of operators that read int8 weights.
PRODUCTS = ("MatMulInteger", "DynamicQuantizeMatMul", "quantized::linear")
LISTED_OPERATORS = 6  # number of operators that have their own row
READ_MEGABYTES = 256  # larger than the caches of most processors


class Profile(NamedTuple):
    """The profile of one variant at one shape."""

    variant: str  # model, engine and precision
    shape: str
    operators: dict[str, float]  # milliseconds per step
    weights_megabytes: float  # size in int8 of the weights of the matrix products

    @property
    def products(self) -> float:
        """Milliseconds per step in matrix products with weights."""
        return sum(ms for name, ms in self.operators.items() if name.startswith(PRODUCTS))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="profiled steps of each variant (default: 60)")
    parser.add_argument("--batch", type=int, default=1, help="streams per step (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    parser.add_argument("--quick", action="store_true", help="use a toy encoder, to test the program")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables and the numbers")
    args = parser.parse_args(arguments)
    if min(args.steps, args.batch) < 1:
        raise ValueError("--steps and --batch must be 1 or more")
    torch.set_num_threads(1)
    sizes = QUICK if args.quick else SIZES
    shapes = [Shape(chunking, args.batch) for chunking in (sizes.chunkings[0], sizes.chunkings[-1])]
    with tempfile.TemporaryDirectory() as folder:
        profiles = measure(Builder(sizes, args.seed, Path(folder)), shapes, args.steps)
    bandwidth = read_bandwidth()
    run = this_run(args.seed, os.getloadavg()[0])
    parts = ["\n".join(run.lines())]
    for shape in shapes:
        label = f"{chunking_label(shape.chunking)}, streams per step: {shape.batch}"
        own = [profile for profile in profiles if profile.shape == shape.label]
        parts += [f"At {label}; ms per step (share):", operators_table(own), weights_table(own, bandwidth)]
    text = "\n\n".join(parts)
    print(text)
    record = {
        "run": run,
        "profiles": [profile._asdict() for profile in profiles],
        "read_gigabytes_per_second": bandwidth,
    }
    write_report(args.output, "profile", text, record)
    return 0


def measure(builder: Builder, shapes: Sequence[Shape], steps: int) -> list[Profile]:
    """Profile the int8 variants of both models at each shape."""
    model = builder.model(builder.sizes.encoder)
    theirs = builder.plain(conformer(builder.sizes.encoder), separate=True)
    exact, static = builder.folder / "conformer.onnx", builder.folder / "ours.onnx"
    write_graph(theirs, exact)
    write_graph(static_onnx_encoder(model, builder.seed), static, [DOMAIN])
    graphs = {
        f"{CONFORMER}, {ONNX_INT8_DYNAMIC}": quantise(exact, exact.with_suffix(".int8.onnx"), "int8"),
        f"{OURS}, {ONNX_INT8}": static,
    }
    encoders = {
        f"{CONFORMER}, {INT8_DYNAMIC}": (dynamic_int8(theirs), False),
        f"{OURS}, {INT8}": (tuned_encoder(model, "int8", builder.seed), True),
    }
    weights = {name: megabytes_of_linear(builder, name) for name in (*graphs, *encoders)}
    found = []
    with tqdm(total=len(shapes) * len(weights), desc="profile", leave=False, disable=None) as bar:
        for shape in shapes:
            for name, path in graphs.items():
                found.append(Profile(name, shape.label, onnx_operators(path, shape, steps), weights[name]))
                bar.update()
            for name, (encoder, frozen) in encoders.items():
                call = torch_variant(name, "int8", encoder, frozen).prepare(shape)
                found.append(Profile(name, shape.label, torch_operators(call, steps), weights[name]))
                bar.update()
    return found


def megabytes_of_linear(builder: Builder, name: str) -> float:
    """Return the size of a variant's linear weights in int8, in megabytes."""
    config = builder.sizes.encoder if name.startswith(OURS) else conformer(builder.sizes.encoder)
    encoder = builder.plain(config)
    return sum(layer.weight.numel() for layer in encoder.modules() if isinstance(layer, torch.nn.Linear)) / 1e6


def onnx_operators(path: Path, shape: Shape, steps: int) -> dict[str, float]:
    """Return milliseconds per step of each operator of a graph, from onnxruntime's profiler."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # no warnings about shapes
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    call = onnx_call(opened, shape)
    for _ in range(steps):
        call()
    events = json.loads(Path(opened.end_profiling()).read_text(encoding="utf-8"))
    return {name: microseconds / 1000 / steps for name, microseconds in kernel_times(events, steps).items()}


def kernel_times(events: Sequence[dict[str, Any]], runs: int) -> Counter[str]:
    """Return microseconds by operator, summed over the last `runs` runs in onnxruntime's profile. Earlier runs filled
    the left context.
    """
    start = sorted(event["ts"] for event in events if event["name"] == "model_run")[-runs]
    spent: Counter[str] = Counter()
    for event in events:
        if event["name"].endswith("_kernel_time") and event["ts"] >= start:
            spent[event["args"]["op_name"]] += event["dur"]
    return spent


def torch_operators(call: Call, steps: int) -> dict[str, float]:
    """Return milliseconds per step of each TorchScript operator, excluding the operators that it calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profiler:
        for _ in range(steps):
            call()
    return {event.key: event.self_cpu_time_total / 1000 / steps for event in profiler.key_averages()}


def read_bandwidth(rounds: int = 9) -> float:
    """Return the bandwidth in GB/s at which one thread reads an array of READ_MEGABYTES: median over `rounds`."""
    array = np.ones(READ_MEGABYTES * 1_000_000 // 8)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        array.sum()
        seconds.append(time.perf_counter() - start)
    return array.nbytes / 1e9 / float(np.median(seconds))


def operators_table(profiles: Sequence[Profile]) -> str:
    """Return a table of the most expensive operators of each variant."""
    columns = []
    for profile in profiles:
        spent: Counter[str] = Counter()
        for name, ms in profile.operators.items():
            spent[short(name)] += ms
        ranked = spent.most_common()
        others = ranked[LISTED_OPERATORS:]
        rows = [*ranked[:LISTED_OPERATORS], (f"{len(others)} others", sum(ms for _, ms in others))]
        columns.append([f"{name} {ms:.2f} ({100 * ms / spent.total():.0f} %)" for name, ms in rows])
    head = ["rank", *(profile.variant for profile in profiles)]
    return markdown_table(head, [[str(rank), *cells] for rank, cells in enumerate(zip(*columns), start=1)])


def short(operator: str) -> str:
    """Return the name of an operator without its namespace and without a suffix like `_with_...`."""
    return operator.rpartition("::")[2].partition("_with_")[0]


def weights_table(profiles: Sequence[Profile], bandwidth: float) -> str:
    rows = [
        [
            profile.variant,
            f"{profile.weights_megabytes:.1f}",
            f"{profile.products:.2f}",
            f"{profile.weights_megabytes / profile.products:.1f}",
        ]
        for profile in profiles
    ]
    read = f"an array of {READ_MEGABYTES} MB, read once"
    rows.append([read, f"{READ_MEGABYTES}", f"{READ_MEGABYTES / bandwidth:.2f}", f"{bandwidth:.1f}"])
    return markdown_table(["products", "weights, MB", "ms per step", "GB/s"], rows)


if __name__ == "__main__":
    run_main(main)
