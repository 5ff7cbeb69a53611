#!/usr/bin/env python3
"""Measure one section of training. Writes training_SECTION.md and training_SECTION.json.

python benchmarks/training.py loader --output results     # speed of loading audio by format; padding of batches
python benchmarks/training.py step --output results       # step times, memory, precisions, one and two ranks
python benchmarks/training.py step --wenet FOLDER --output results   # also WeNet's own step; FOLDER holds its package
python benchmarks/training.py start --output results      # seconds and memory from the command to the first batch
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from parts.benchmark_report import this_run, write_report
from parts.training import loader_speed, start_of_training, step_time
from wenet_fusion_runtime.console import run_main

SECTIONS = {"loader": loader_speed, "step": step_time, "start": start_of_training}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = parser.add_subparsers(dest="section", required=True)
    for name, section in SECTIONS.items():
        options = sections.add_parser(name, help=section.__doc__.partition("\n")[0])
        options.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: 0)")
        options.add_argument("--output", type=Path, required=True, help="folder for the tables and the numbers")
        section.add_options(options)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    text, record = SECTIONS[args.section].measure(args)
    run = this_run(args.seed, os.getloadavg()[0])
    text = "\n\n".join(["\n".join(run.lines()), text])
    print(text)
    write_report(args.output, f"training_{args.section}", text, {"run": run, **record})
    return 0


if __name__ == "__main__":
    run_main(main)
