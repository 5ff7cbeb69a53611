#!/usr/bin/env python3
"""The paper's comparison on a recipe's data: train every configuration, and summarise what has finished.

python benchmarks/comparison.py run --study conf/comparison.yaml --data_dir data --folder exp/comparison
python benchmarks/comparison.py summarise --study conf/comparison.yaml --folder exp/comparison --output results --name digits

Run both in the recipe's folder; its run_comparison.sh does. After an interruption, the same command goes on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from parts.comparison.execution import progress, run_comparison
from parts.comparison.grid import plan
from parts.comparison.outcomes import RunFolders
from parts.comparison.study import Study, read_study
from wenet_fusion_runtime.console import run_main


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run", help="train and evaluate what is left")
    runs.add_argument("--data_dir", type=Path, default=Path("data"), help="data folder of the recipe (default: data)")
    runs.add_argument("--jobs", type=int, default=1, help="trainings at once (default: 1)")
    runs.add_argument("--device", default="cpu", help="device of the trainings (default: cpu)")
    runs.add_argument("--dry_run", action="store_true", help="print the plan instead")
    for verb in (runs,):
        verb.add_argument("--study", type=Path, required=True, help="YAML file of the comparison")
        verb.add_argument("--folder", type=Path, required=True, help="folder of the runs")
    args = parser.parse_args(arguments)
    study = read_study(args.study)
    if args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: must be 1 or more")
    if args.dry_run:
        print_plan(study, RunFolders(args.folder), args.jobs)
        return 0
    return run_comparison(study, args.data_dir.resolve(), args.folder, args.jobs, args.device)


def print_plan(study: Study, folders: RunFolders, jobs: int) -> None:
    """Print what is left as far as it is known now: the grid may grow, and the seeds wait for the choice."""
    for task in plan(study, folders).tasks:
        print(task.label)
    print(progress(study, folders).line(jobs))


if __name__ == "__main__":
    run_main(main)
