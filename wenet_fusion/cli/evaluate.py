"""The verbs `evaluate`, `score` and `report`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wenet_fusion_runtime.cli.search_arguments import add_search_arguments
from wenet_fusion_runtime.files import list_problems

from wenet_fusion.cli.arguments import Verb, print_skipped
from wenet_fusion.cli.search_variants import variants_of
from wenet_fusion.data.kaldi import read_table
from wenet_fusion.evaluation.options import ALL_MODES, EvaluationOptions
from wenet_fusion.evaluation.ranks import joined_ranks
from wenet_fusion.evaluation.report.content import Condition, Fact, Report
from wenet_fusion.evaluation.report.streaming_table import read_streams, stream_table
from wenet_fusion.evaluation.report.write import check_report_path, write_report
from wenet_fusion.evaluation.results import Row, read_results, scored, write_reports
from wenet_fusion.evaluation.run import evaluate
from wenet_fusion.model.chunking import FULL_CONTEXT, parse_chunking
from wenet_fusion.text.error_rate import Scoring, score
from wenet_fusion.text.transcripts import UNITS, Counting
from wenet_fusion.trained_model import load_trained


def add(verb: Verb) -> None:
    """Add the verbs to the parser."""
    p = verb(
        "evaluate", evaluate_command, "decode a data.list in several modes and chunkings: error rates and a report"
    )
    p.add_argument("--checkpoint", type=Path, required=True)
    p.add_argument("--data", type=Path, required=True, help="data.list with transcripts")
    p.add_argument(
        "--result_dir", type=Path, required=True, help="gets report.html, report.md, results.json, utterances.jsonl"
    )
    modes = "default: all of " + ", ".join(ALL_MODES)
    p.add_argument("--modes", nargs="+", default=list(ALL_MODES), choices=ALL_MODES, metavar="MODE", help=modes)
    p.add_argument(
        "--chunkings", nargs="+", metavar="LABEL", help="'full' or SIZE/LEFT such as 16/4; default: all trained"
    )
    p.add_argument(
        "--max_batch_seconds", type=float, default=100.0, help="audio that is decoded at a time, padding included"
    )
    _add_counting(p)
    add_search_arguments(p, with_mode=False)

    p = verb("score", score_command, "align two transcript files ('key words' lines, as Kaldi's text) and count errors")
    p.add_argument("reference", type=Path)
    p.add_argument("hypothesis", type=Path)
    p.add_argument("--report", type=Path, help="page to write, *.html or *.md")
    p.add_argument("--brief", action="store_true", help="print the totals without the alignment of each utterance")
    _add_counting(p)

    p = verb("report", report_command, "write the report of an evaluation again, with how its model streamed")
    p.add_argument("result_dir", type=Path, help="of `evaluate`")
    p.add_argument(
        "--streamed",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="stream.json files of tools/measure/measure_streaming.py",
    )


def _add_counting(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--unit",
        choices=UNITS,
        default="word",
        help="what errors are counted in; mixed: Chinese and Japanese characters, other words",
    )
    p.add_argument("--ignore_case", action="store_true", help="capitals are no errors")
    p.add_argument(
        "--ignore_punctuation", action="store_true", help="punctuation is no error; an apostrophe within a word stays"
    )


def _counting(args: argparse.Namespace) -> Counting:
    return Counting(args.unit, args.ignore_case, args.ignore_punctuation)


def evaluate_command(args: argparse.Namespace) -> int:
    trained = load_trained(args.checkpoint)
    chunkings = tuple(parse_chunking(label) for label in args.chunkings or ())
    variants, all_usable = variants_of(args, trained.tokenizer.vocabulary)
    options = EvaluationOptions(
        modes=tuple(args.modes), chunkings=chunkings or (FULL_CONTEXT, *reversed(trained.config.training.chunking.served())),
        variants=variants, counting=_counting(args), max_batch_seconds=args.max_batch_seconds,
    )  # fmt: skip
    args.result_dir.mkdir(parents=True, exist_ok=True)
    with joined_ranks() as ranks:
        results = evaluate(trained, args.data, options, args.result_dir, ranks)
    if results is None:
        return 0
    print(format_rows([condition.row for condition in results.conditions]))
    print_skipped(results.evaluation.skipped)
    if results.evaluation.skipped:
        used = len(results.evaluation.references)
        print(f"skipped {len(results.evaluation.skipped)} in all, {used} utterances evaluated", file=sys.stderr)
    print(f"{args.result_dir / 'report.html'}: the worst utterances, word by word")
    return 1 if results.evaluation.skipped or not all_usable else 0


def format_rows(rows: Sequence[Row]) -> str:
    """The result table as text."""
    widest = max(7, *(len(row.variant) for row in rows))
    lines = [
        f"{'mode':24} {'variant':{widest}} {'chunking':>8} {'errors %':>9} {'95 % interval':>14} {'sub':>5} {'del':>5}"
        f" {'ins':>5} {'of':>6} {'RTF':>7}"
    ]
    for row in rows:
        rate = "-" if row.wer is None else f"{100 * row.wer:.2f}"
        interval = "" if row.interval is None else " - ".join(f"{100 * value:.2f}" for value in row.interval)
        lines.append(
            f"{row.mode:24} {row.variant:{widest}} {row.chunking:>8} {rate:>9} {interval:>14} {row.substitutions:5}"
            f" {row.deletions:5} {row.insertions:5} {row.words:6} {row.real_time_factor:7.4f}"
        )
    return "\n".join(lines)


def score_command(args: argparse.Namespace) -> int:
    if args.report is not None:
        check_report_path(args.report)
    counting = _counting(args)
    references = read_table(args.reference)
    if not references:
        raise ValueError(f"{args.reference}: holds no transcript; give lines of a key and its words, as Kaldi's text")
    result = score(references, read_table(args.hypothesis), counting)
    print(result.report(brief=args.brief), end="")
    problems = [f"{args.hypothesis} has no {key}, which counts as deleted" for key in result.missing]
    problems += [f"{args.reference} has no {key}, which is not counted" for key in result.extra]
    if args.report is not None:
        write_report(_score_report(args, result, counting, problems), args.report)
    if problems:
        print(
            f"{len(result.missing) + len(result.extra)} keys are not in both files:\n{list_problems(problems)}",
            file=sys.stderr,
        )
    return 1 if problems else 0


def _score_report(args: argparse.Namespace, result: Scoring, counting: Counting, problems: list[str]) -> Report:
    about = f"{len(result.utterances):,} utterances, {result.total.reference:,} {counting.noun}"
    facts = tuple(
        Fact(name, str(value))
        for name, value in (
            ("reference", args.reference),
            ("hypothesis", args.hypothesis),
            ("counted", counting.description),
        )
    )
    condition = Condition(args.hypothesis.name, "", result, result.interval())
    return Report(f"{counting.rate_name} of {args.hypothesis}", about, counting, (condition,), facts, tuple(problems))


def report_command(args: argparse.Namespace) -> int:
    evaluation = read_results(args.result_dir)
    streams = stream_table(read_streams(args.streamed)) if args.streamed else None
    for path in write_reports(evaluation, scored(evaluation), args.result_dir, streams):
        print(path)
    return 0
