"""The verb `report`."""

import argparse
from pathlib import Path

from wenet_fusion.cli.arguments import Verb
from wenet_fusion.evaluation.report.group_table import group_table, read_groups
from wenet_fusion.evaluation.report.streaming_table import read_streams, stream_table
from wenet_fusion.evaluation.results import condition_errors, read_results, scored, write_reports


def add(verb: Verb) -> None:
    """Add the verb to the command."""
    p = verb(
        "report",
        report_command,
        "Write the report of an evaluation again, and add error rates by group and measurements of streaming.",
        [
            "exp/results --groups data/test/utt2spk",
            "exp/results --streamed exp/stream.16-4/stream.json exp/stream.8-8/stream.json",
        ],
    )
    p.add_argument("result_dir", type=Path, help="folder that `evaluate` wrote")
    p.add_argument(
        "--streamed",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="stream.json files that tools/measure/measure_streaming.py wrote",
    )
    p.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="file of lines 'key group', such as utt2spk: add a table of error rates by group",
    )


def report_command(args: argparse.Namespace) -> int:
    """Run the verb and return the exit status."""
    evaluation = read_results(args.result_dir)
    conditions, tables = scored(evaluation), []
    if args.groups is not None:
        groups = read_groups(args.groups, list(evaluation.references))
        tables.append(group_table(condition_errors(conditions), groups, evaluation.counting.noun))
    if args.streamed:
        tables.append(stream_table(read_streams(args.streamed)))
    for path in write_reports(evaluation, conditions, args.result_dir, tuple(tables)):
        print(path)
    return 0
