"""The verb `report`."""

import argparse
from pathlib import Path

from wenet_fusion.cli.arguments import Verb
from wenet_fusion.evaluation.report.streaming_table import read_streams, stream_table
from wenet_fusion.evaluation.results import read_results, scored, write_reports


def add(verb: Verb) -> None:
    """Add the verb to the command."""
    p = verb(
        "report",
        report_command,
        "Write the report of an evaluation again, with measurements of streaming beside the error rates.",
        ["exp/results", "exp/results --streamed exp/stream.16-4/stream.json exp/stream.8-8/stream.json"],
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


def report_command(args: argparse.Namespace) -> int:
    """Run the verb and return the exit status."""
    evaluation = read_results(args.result_dir)
    streams = stream_table(read_streams(args.streamed)) if args.streamed else None
    for path in write_reports(evaluation, scored(evaluation), args.result_dir, streams):
        print(path)
    return 0
