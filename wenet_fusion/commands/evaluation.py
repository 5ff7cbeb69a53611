"""The verbs `evaluate` and `score`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from wenet_fusion.chunking import FULL_CONTEXT, parse_chunking
from wenet_fusion.commands.common import Verb, print_skipped
from wenet_fusion.error_rate import score
from wenet_fusion.evaluation import ALL_MODES, EvaluationOptions, Row, evaluate
from wenet_fusion.files import read_table
from wenet_fusion.recipe import load_trained


def add(verb: Verb) -> None:
    """Add the verbs to the parser."""
    p = verb("evaluate", evaluate_command, "decode a data.list in several modes and chunkings and print error rates")
    p.add_argument("--checkpoint", type=Path, required=True)
    p.add_argument("--data", type=Path, required=True, help="data.list with transcripts")
    p.add_argument("--result_dir", type=Path, required=True)
    p.add_argument("--modes", nargs="+", default=list(ALL_MODES), choices=ALL_MODES, metavar="MODE", help="of " + ", ".join(ALL_MODES))
    p.add_argument("--chunkings", nargs="+", metavar="LABEL", help="'full' or SIZE/LEFT such as 16/4; default: all trained")
    p.add_argument("--beam_size", type=int, default=10)
    p.add_argument("--ctc_weight", type=float, help="of the CTC score in rescoring; default: the model's")
    p.add_argument("--reverse_weight", type=float, help="share of the right-to-left decoder; default: the model's")
    p.add_argument("--unit", choices=("word", "char"), default="word", help="what errors are counted in")

    p = verb("score", score_command, "align two transcript files ('key words' lines) and count errors")
    p.add_argument("reference", type=Path)
    p.add_argument("hypothesis", type=Path)
    p.add_argument("--unit", choices=("word", "char"), default="word", help="what errors are counted in")


def evaluate_command(args: argparse.Namespace) -> int:
    trained = load_trained(args.checkpoint)
    chunkings = tuple(parse_chunking(label) for label in args.chunkings or ())
    options = EvaluationOptions(
        modes=tuple(args.modes), beam_size=args.beam_size, ctc_weight=args.ctc_weight, reverse_weight=args.reverse_weight,
        chunkings=chunkings or (FULL_CONTEXT, *reversed(trained.config.training.chunking.served())), unit=args.unit,
    )
    args.result_dir.mkdir(parents=True, exist_ok=True)
    result = evaluate(trained, args.data, options, args.result_dir)
    print(format_rows(result.rows))
    print_skipped(result.skipped)
    return 1 if result.skipped else 0


def format_rows(rows: Sequence[Row]) -> str:
    """The result table as text."""
    lines = [f"{'mode':24} {'chunking':>8} {'errors %':>9} {'sub':>5} {'del':>5} {'ins':>5} {'of':>6}"]
    lines += [
        f"{row.mode:24} {row.chunking:>8} {100 * row.wer:9.2f} {row.substitutions:5} {row.deletions:5} {row.insertions:5} {row.words:6}"
        for row in rows
    ]
    return "\n".join(lines)


def score_command(args: argparse.Namespace) -> int:
    result = score(read_table(args.reference), read_table(args.hypothesis), args.unit)
    print(result.report(), end="")
    return 1 if result.missing or result.extra else 0
