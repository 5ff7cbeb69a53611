#!/usr/bin/env python3
"""Compare the word times of CTM files, e.g. from `wenet-fusion align` or measure_streaming.py, with a reference."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from wenet_fusion_runtime.console import HelpFormatter, run_main
from wenet_fusion_runtime.files import write_text

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.scoring.ctm import keys_without_words, read_ctm
from wenet_fusion.scoring.timestamp_errors import TimestampErrors, match_all_words, timestamp_errors


def table(rows: Mapping[Path, TimestampErrors], words: int) -> str:
    """Return a Markdown table in milliseconds."""
    side = ["mean", "50 %", "95 %", "bias"]
    header = ["error in ms", f"of {words} words", f"starts: {side[0]}", *side[1:], f"ends: {side[0]}", *side[1:]]
    cells = []
    for path, errors in rows.items():
        sides = [f"{1000 * value:.0f}" for side_errors in (errors.starts, errors.ends) for value in side_errors]
        cells.append([str(path), str(errors.words), *sides])
    return markdown_table(header, cells)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("reference", type=Path, help="CTM file with the reference times")
    parser.add_argument(
        "ctm", type=Path, nargs="+", help="CTM file to compare; words that the reference lacks do not count"
    )
    parser.add_argument("--output", type=Path, help="JSON file to write the numbers to, in seconds")
    args = parser.parse_args(arguments)

    spoken = read_ctm(args.reference)
    texts = {key: " ".join(word.text for word in words) for key, words in spoken.items()}
    rows = {}
    for path in args.ctm:
        recognised = read_ctm(path)
        # This call raises ValueError if no utterance has words; single utterances may have none.
        keys_without_words(recognised, texts, path)
        rows[path] = timestamp_errors(match_all_words(spoken, recognised))
    print(table(rows, sum(map(len, spoken.values()))))
    if args.output is not None:
        content = {
            str(path): {"words": row.words, "starts": row.starts._asdict(), "ends": row.ends._asdict()}
            for path, row in rows.items()
        }
        write_text(args.output, json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_main(main)
