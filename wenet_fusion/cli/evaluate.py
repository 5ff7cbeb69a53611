"""The verb `evaluate`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wenet_fusion_runtime.cli.search_arguments import add_grammar_arguments, add_search_arguments

from wenet_fusion.cli.arguments import Verb, add_counting, counting, make_folder, print_skipped
from wenet_fusion.cli.search_variants import variants_of
from wenet_fusion.evaluation.options import ALL_MODES, EvaluationOptions
from wenet_fusion.evaluation.results import Row
from wenet_fusion.evaluation.run import evaluate
from wenet_fusion.model.chunking import FULL_CONTEXT, parse_chunking
from wenet_fusion.ranks import joined_ranks
from wenet_fusion.trained_model import load_trained


def add(verb: Verb) -> None:
    """Add the verb to the command."""
    p = verb(
        "evaluate",
        evaluate_command,
        "Decode a data.list in several modes and chunkings, and write error rates and a report.",
        [
            "--checkpoint exp/avg_3.pt --data data/test/data.list --result_dir exp/results",
            "--checkpoint avg_3.pt --data test.list --result_dir results --modes attention_rescoring --chunkings 16/4",
            "--checkpoint avg_3.pt --data test.list --result_dir results --grammar commands.jsgf",
        ],
    )
    p.add_argument("--checkpoint", type=Path, required=True, help="checkpoint to evaluate")
    p.add_argument("--data", "--test_data", type=Path, required=True, help="data.list with transcripts")
    p.add_argument(
        "--result_dir",
        type=Path,
        required=True,
        help="folder for report.html, report.md, results.json and utterances.jsonl",
    )
    p.add_argument(
        "--modes",
        nargs="+",
        default=list(ALL_MODES),
        choices=ALL_MODES,
        metavar="MODE",
        help="decoding modes to compare; default: all of " + ", ".join(ALL_MODES),
    )
    p.add_argument(
        "--chunkings",
        nargs="+",
        metavar="LABEL",
        help="chunkings to compare, 'full' or SIZE/LEFT such as 16/4; default: full, and each chunk size of the model",
    )
    p.add_argument(
        "--max_batch_seconds",
        type=float,
        default=100.0,
        help="largest size of a batch in seconds of audio, padding included",
    )
    p.add_argument(
        "--ctm",
        type=Path,
        help="CTM file with word timestamps of the transcripts, to report the emission delay of words in ms",
    )
    add_counting(p)
    add_search_arguments(p, with_mode=False)
    add_grammar_arguments(p)


def evaluate_command(args: argparse.Namespace) -> int:
    """Run the verb and return the exit status: 1 if utterances or hot words could not be used."""
    trained = load_trained(args.checkpoint)
    chunkings = tuple(parse_chunking(label) for label in args.chunkings or ())
    variants, all_usable = variants_of(args, trained.tokenizer.vocabulary)
    options = EvaluationOptions(
        modes=tuple(args.modes),
        chunkings=chunkings or (FULL_CONTEXT, *reversed(trained.config.training.chunking.served())),
        variants=variants,
        counting=counting(args),
        max_batch_seconds=args.max_batch_seconds,
        ctm=args.ctm,
    )
    make_folder("--result_dir", args.result_dir)
    with joined_ranks() as ranks:
        results = evaluate(trained, args.data, options, args.result_dir, ranks)
    if results is None:
        return 0
    print(format_rows([condition.row for condition in results.conditions], has_grammar=args.grammar is not None))
    print_skipped(results.evaluation.skipped)
    if results.evaluation.skipped:
        used = len(results.evaluation.references)
        print(f"skipped {len(results.evaluation.skipped)} in all, {used} utterances evaluated", file=sys.stderr)
    print(f"{args.result_dir / 'report.html'}: the worst utterances, word by word")
    return 1 if results.evaluation.skipped or not all_usable else 0


def format_rows(rows: Sequence[Row], has_grammar: bool = False) -> str:
    """Return the result table as text for a terminal; with a grammar, also the number of rejected utterances."""
    widest = max(7, *(len(row.variant) for row in rows))
    delayed = any(row.emission_delay_ms is not None for row in rows)
    wordless = any(row.insertions_per_hour is not None for row in rows)
    counts_rejected = has_grammar and not wordless  # without reference words, every text is an insertion
    lines = [
        f"{'mode':24} {'variant':{widest}} {'chunking':>8} {'errors %':>9} {'95 % interval':>14} {'sub':>5} {'del':>5}"
        f" {'ins':>5} {'of':>6} {'RTF':>7}"
        + " rejected" * counts_rejected
        + "  inserted" * wordless
        + "  delay of words, ms (50 / 90 / 95 %)" * delayed
    ]
    for row in rows:
        rate = "-" if row.wer is None else f"{100 * row.wer:.2f}"
        interval = "" if row.interval is None else " - ".join(f"{100 * value:.2f}" for value in row.interval)
        lines.append(
            f"{row.mode:24} {row.variant:{widest}} {row.chunking:>8} {rate:>9} {interval:>14} {row.substitutions:5}"
            f" {row.deletions:5} {row.insertions:5} {row.words:6} {row.real_time_factor:7.4f}"
            + f" {row.utterances_empty:8}" * counts_rejected
            + ("" if row.insertions_per_hour is None else f"  {_inserted(row)}")
            + ("" if row.emission_delay_ms is None else f"  {row.emission_delay_ms.text()}")
        )
    return "\n".join(lines)


def _inserted(row: Row) -> str:
    return f"{row.insertions_per_hour:.1f} per hour, in {row.utterances_wrong} of {row.utterances} utterances"
