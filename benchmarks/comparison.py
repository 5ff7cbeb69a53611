#!/usr/bin/env python3
"""Run the comparison of docs/comparison.md on a recipe's data: train every configuration, and summarise the results.

python ../../../benchmarks/comparison.py run --study conf/comparison.yaml --data_dir data --folder exp/comparison
python ../../../benchmarks/comparison.py summarise --study conf/comparison.yaml --folder exp/comparison --name digits \\
    --output ../../../benchmarks/results

Run both commands in the recipe's folder, or its run_comparison.sh. After an interruption, the same command resumes.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from parts.comparison.comparison_page import quote, write_page
from parts.comparison.execution import progress, run_comparison
from parts.comparison.findings import collect
from parts.comparison.grid import plan
from parts.comparison.outcomes import RunFolders
from parts.comparison.study import Study, read_study
from wenet_fusion_runtime.console import run_main


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run", help="run the remaining trainings and evaluations")
    runs.add_argument("--data_dir", type=Path, default=Path("data"), help="data folder of the recipe (default: data)")
    runs.add_argument("--device", default="cpu", help="device of the trainings (default: cpu)")
    runs.add_argument("--jobs", type=int, default=1, help="number of parallel trainings (default: 1)")
    runs.add_argument("--dry_run", action="store_true", help="print the plan without running it")
    summary = verbs.add_parser("summarise", help="write tables of the finished runs")
    summary.add_argument("--name", required=True, help="name of the corpus, for comparison_NAME.md and .json")
    summary.add_argument("--output", type=Path, required=True, help="folder for the page and the numbers")
    summary.add_argument("--page", type=Path, help="document in which to replace the quoted tables")
    summary.add_argument("--picture", type=Path, help="picture to write, a PNG file")
    for verb in (runs, summary):
        verb.add_argument("--study", type=Path, required=True, help="YAML file of the comparison")
        verb.add_argument("--folder", type=Path, required=True, help="folder of the runs")
        verb.add_argument("--records", type=Path, help="folder for the records of finished runs (default: --folder)")
    args = parser.parse_args(arguments)
    study = read_study(args.study)
    if args.verb == "summarise":
        summarise(study, args)
        return 0
    if args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: must be 1 or more")
    folders = RunFolders(args.folder, args.records)
    if args.dry_run:
        print_plan(study, folders, args.jobs)
        return 0
    return run_comparison(study, args.data_dir.resolve(), folders, args.jobs, args.device)


def print_plan(study: Study, folders: RunFolders, jobs: int) -> None:
    """Print the remaining tasks that are known so far. Others may follow: the grid of settings may grow, and the best
    settings are trained with further seeds.
    """
    for task in plan(study, folders).tasks:
        print(task.label)
    print(progress(study, folders).line(jobs))


def summarise(study: Study, args: argparse.Namespace) -> None:
    """Write the tables and, if requested, the picture of the finished runs."""
    folders = RunFolders(args.folder, args.records)
    sizes = collect(study, folders)
    now = progress(study, folders)
    done = f"{now.finished} of about {now.trainings} trainings have finished"
    text = write_page(args.name, sizes, study, done, args.output, os.getloadavg()[0])
    if args.page:
        quote(args.page, args.name, text)
    if args.picture and now.finished:
        from parts.comparison.comparison_pictures import draw  # matplotlib is an extra

        draw(sizes, args.picture)
    print(text)


if __name__ == "__main__":
    run_main(main)
