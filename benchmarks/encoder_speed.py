#!/usr/bin/env python3
"""Time a streaming step of our encoder and of a LayerNorm Conformer of the same shape, on every engine in every
precision.

All variants run by turns in one process with one thread, with random weights. A step maps features and state to frames
and the next state. Writes encoder.md (tables, goals and measurements), encoder.json and encoder_speed.png.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from parts.benchmark_report import goals_table, this_run, write_report
from parts.candidates import CHANGES, LINEAR, Builder, Candidate, Sizes, changes
from parts.chart import draw
from parts.random_models import Shape
from parts.tables import Times, batch_goals, batch_table, gain_table, step_goals, variants_table
from parts.timing import by_turns
from tqdm import tqdm
from wenet_fusion_runtime.console import run_main

from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.model.encoder_config import EncoderConfig

SIZES = Sizes(EncoderConfig(), (Chunking(16, 4), Chunking(8, 8), Chunking(4, 16)))
QUICK = Sizes(
    EncoderConfig(dim=16, layers=2, heads=2, feed_forward=32, conv_kernel=4, subsampling_channels=4, max_distance=8),
    (Chunking(4, 2), Chunking(2, 4)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], help="streams per step, in addition to 1")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each variant (default: 40)")
    parser.add_argument("--timed", type=int, default=2, help="measured steps in a turn (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    parser.add_argument("--quick", action="store_true", help="use a toy encoder and 3 rounds, to test the program")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables, the numbers and the chart")
    args = parser.parse_args(arguments)
    if min([args.rounds, args.timed, *args.batches]) < 1:
        raise ValueError("--rounds, --timed and --batches must be 1 or more")
    torch.set_num_threads(1)
    sizes, rounds = (QUICK, 3) if args.quick else (SIZES, args.rounds)
    batches = sorted({1, *args.batches})
    candidates = build(sizes, args.seed)
    times = measure(candidates, sizes, batches, rounds, args.timed)
    run = this_run(args.seed, os.getloadavg()[0])

    alone = {chunking_label(chunking): times[Shape(chunking, 1)] for chunking in sizes.chunkings}
    goals = step_goals(times, candidates, sizes.chunkings)
    if len(batches) > 1:
        goals += batch_goals(times, sizes.chunkings[-1], batches[-1])
    text = "\n\n".join(
        [
            "\n".join(run.lines()),
            f"Medians of {rounds * args.timed} steps ({rounds} rounds of {args.timed}). The variants take turns.",
            variants_table(times, candidates, sizes.chunkings),
            goals_table(goals),
            "Each row adds one change. `saves`: the time that the change saves, in percent of the first row's time.",
            *(f"At {label}:\n\n{gain_table(found, changes(sizes.encoder))}" for label, found in alone.items()),
            *([batch_table(times, candidates, batches)] if len(batches) > 1 else []),
        ]
    )
    print(text)
    record = {"run": run, "encoder": sizes.encoder, "goals": goals, "times": _plain(times)}
    write_report(args.output, "encoder", text, record)
    draw(alone, candidates, args.output / "encoder_speed.png")
    return 0


def build(sizes: Sizes, seed: int) -> list[Candidate]:
    with tempfile.TemporaryDirectory() as folder:
        builder = Builder(sizes, seed, Path(folder))
        parts = [builder.conformer, builder.ours, builder.changes]
        return [candidate for part in tqdm(parts, desc="build", leave=False, disable=None) for candidate in part()]


def measure(candidates: Sequence[Candidate], sizes: Sizes, batches: Sequence[int], rounds: int, timed: int) -> Times:
    """Time all candidates with one stream, and the complete models also with several streams."""
    times = {}
    for batch in batches:
        chosen = [candidate for candidate in candidates if batch == 1 or candidate.model not in (LINEAR, CHANGES)]
        for chunking in sizes.chunkings:
            shape = Shape(chunking, batch)
            with tqdm(total=rounds * len(chosen), desc=shape.label, unit="turn", leave=False, disable=None) as bar:
                calls = {candidate.name: candidate.variant.prepare(shape) for candidate in chosen}
                times[shape] = by_turns(calls, rounds, timed, bar.update)
    return times


def _plain(times: Times) -> dict[str, dict[str, dict[str, float]]]:
    return {shape.label: {name: timing._asdict() for name, timing in found.items()} for shape, found in times.items()}


if __name__ == "__main__":
    run_main(main)
