"""The verb `score`."""

import argparse
import sys
from pathlib import Path

from wenet_fusion_runtime.files import list_problems

from wenet_fusion.cli.arguments import Verb, add_counting, counting
from wenet_fusion.data.lists.kaldi import read_table
from wenet_fusion.evaluation.report.content import ConditionErrors, Fact, Report, report_title
from wenet_fusion.evaluation.report.write import check_report_path, write_report
from wenet_fusion.scoring.error_rate import Scoring, score
from wenet_fusion.scoring.transcripts import Counting, counted

FORMAT = "the format of Kaldi's file `text`: on each line a key, then its words"


def add(verb: Verb) -> None:
    """Add the verb to the command."""
    p = verb(
        "score",
        score_command,
        "Align two transcript files and count the errors.",
        [
            "data/test/text exp/results/attention_rescoring.16-4/text",
            "reference.txt hypothesis.txt --unit char --brief --report errors.html",
        ],
    )
    p.add_argument("reference", type=Path, help=f"correct transcripts, in {FORMAT}")
    p.add_argument("hypothesis", type=Path, help="recognised transcripts, in the same format")
    p.add_argument("--report", type=Path, help="report to write, *.html or *.md")
    p.add_argument("--brief", action="store_true", help="print the totals without the alignment of each utterance")
    add_counting(p)


def score_command(args: argparse.Namespace) -> int:
    """Run the verb and return the exit status: 1 if a key is in only one of the files."""
    if args.report is not None:
        check_report_path(args.report)
    how = counting(args)
    references = read_table(args.reference)
    if not references:
        raise ValueError(f"{args.reference}: holds no transcript; write transcripts in {FORMAT}")
    result = score(references, read_table(args.hypothesis), how)
    print(result.report(args.brief, how.noun), end="")
    problems = [f"{key} is missing in {args.hypothesis}: all its {how.noun} count as deleted" for key in result.missing]
    problems += [f"{key} is missing in {args.reference}: it is not counted" for key in result.extra]
    if args.report is not None:
        write_report(_score_report(args, result, how, problems), args.report)
    if problems:
        keys = "1 key is" if len(problems) == 1 else f"{len(problems)} keys are"
        print(f"{keys} in only one of the two files:\n{list_problems(problems)}", file=sys.stderr)
    return 1 if problems else 0


def _score_report(args: argparse.Namespace, result: Scoring, how: Counting, problems: list[str]) -> Report:
    about = f"{len(result.utterances):,} utterances, {counted(result.total.reference, how.noun)}"
    facts = tuple(
        Fact(name, str(value))
        for name, value in (
            ("reference", args.reference),
            ("hypothesis", args.hypothesis),
            ("counted", how.description),
        )
    )
    condition = ConditionErrors(args.hypothesis.name, "", result, result.interval())
    title = report_title(how, result.total, str(args.hypothesis))
    return Report(title, about, how, (condition,), facts, tuple(problems))
