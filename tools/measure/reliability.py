#!/usr/bin/env python3
"""Compare the confidence of words with the share of correct words: expected calibration error and reliability plot."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pictures import BLUE, GRID, INK, PALE_BLUE, PALE_INK, load_pyplot
from wenet_fusion_runtime import Word
from wenet_fusion_runtime.console import HelpFormatter, run_main
from wenet_fusion_runtime.files import write_text

from wenet_fusion.data.lists.kaldi import read_table
from wenet_fusion.scoring.ctm import keys_without_words, read_ctm
from wenet_fusion.scoring.error_rate import align
from wenet_fusion.scoring.transcripts import Counting

Z = 1.96  # standard deviations of a 95 % interval


class Bin(NamedTuple):
    """The words with a confidence from `low` to `high`."""

    low: float
    high: float
    words: int
    confidence: float  # mean confidence; this and the next three are NaN if the bin has no words
    right: float  # share of correct words
    right_low: float  # Wilson's 95 % interval of `right`, from `right_low` to `right_high`
    right_high: float


class Reliability(NamedTuple):
    """The calibration of word confidence: bins and expected calibration error."""

    words: int
    wrong: int
    confidence: float  # mean confidence
    right: float  # share of correct words
    expected_calibration_error: float  # mean of |confidence - right| over the bins, weighted by their words
    bins: list[Bin]


def rated_words(
    references: Mapping[str, str], recognised: Mapping[str, Sequence[Word]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence of each recognised word, and whether it is correct in an alignment with fewest errors."""
    confidences, right = [], []
    counting = Counting("mixed")  # splits text into words like the runtime
    for key, text in references.items():
        words = iter(recognised.get(key, ()))
        for pair in align(counting.tokens(text), [word.text for word in recognised.get(key, ())]).pairs:
            if pair.hypothesis is not None:
                confidences.append(next(words).confidence)
                right.append(pair.reference == pair.hypothesis)
    return np.array(confidences), np.array(right, dtype=bool)


def reliability(confidences: np.ndarray, right: np.ndarray, bins: int) -> Reliability:
    """Sort the words into `bins` bins of equal width, and compute the calibration error."""
    index = np.minimum((confidences * bins).astype(int), bins - 1)
    found = [
        _bin(number / bins, (number + 1) / bins, confidences[index == number], right[index == number])
        for number in range(bins)
    ]
    error = sum(item.words * abs(item.confidence - item.right) for item in found if item.words) / len(right)
    return Reliability(len(right), int((~right).sum()), float(confidences.mean()), float(right.mean()), error, found)


def _bin(low: float, high: float, confidences: np.ndarray, right: np.ndarray) -> Bin:
    count = len(right)
    if not count:
        return Bin(low, high, 0, math.nan, math.nan, math.nan, math.nan)
    share = float(right.mean())
    middle = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z / (1 + Z * Z / count) * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    # If all words are right, or all wrong, the interval must end exactly at the share, despite rounding.
    right_low, right_high = min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share)
    return Bin(low, high, count, float(confidences.mean()), share, right_low, right_high)


def draw(found: Reliability, title: str, path: Path) -> None:
    """Draw the share of right words against confidence, and below it the number of words in each bin."""
    plt = load_pyplot()
    full = [item for item in found.bins if item.words]
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(7, 6.6), gridspec_kw={"height_ratios": [3, 1]})
    upper.plot([0, 1], [0, 1], color=PALE_INK, lw=1, ls="--", zorder=1, label="perfect calibration")
    x, y = [item.confidence for item in full], [item.right for item in full]
    spread = [[item.right - item.right_low for item in full], [item.right_high - item.right for item in full]]
    upper.errorbar(
        x, y, yerr=spread, fmt="o", ms=6, color=BLUE, ecolor=PALE_BLUE, elinewidth=2, zorder=3, clip_on=False,
        label="words of a bin, 95 % interval",
    )  # fmt: skip
    upper.set_ylabel("share of correct words")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1)
    upper.grid(color=GRID)
    upper.set_title(f"{title}\n", loc="left")
    upper.text(
        0, 1.02,
        f"{found.words} words, {found.wrong} wrong; mean confidence {found.confidence:.3f}, right {found.right:.3f}; "
        f"expected calibration error {found.expected_calibration_error:.3f}",
        transform=upper.transAxes, fontsize=8.5, color=INK,
    )  # fmt: skip
    width = 1 / len(found.bins)
    lower.bar(
        [(item.low + item.high) / 2 for item in full], [item.words for item in full], 0.9 * width, color=PALE_BLUE
    )
    for item in full:
        above = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center"}
        lower.annotate(str(item.words), ((item.low + item.high) / 2, item.words), fontsize=8, color=INK, **above)
    lower.set_yscale("log")
    lower.set_ylim(0.7, 4 * max(item.words for item in full))
    lower.set_yticks([])
    lower.spines["left"].set_visible(False)
    lower.minorticks_off()
    lower.set_ylabel("words (log)")
    lower.set_xlabel("confidence")
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("text", type=Path, help="transcripts: lines 'key words'")
    parser.add_argument(
        "ctm", type=Path, help="recognised words with confidence, e.g. from tools/measure/measure_streaming.py"
    )
    parser.add_argument("--bins", type=int, default=10, help="number of bins of equal width")
    parser.add_argument("--title", help="title of the picture; default: the CTM file")
    parser.add_argument("--output", type=Path, help="picture to draw (PNG, SVG or PDF), with a JSON file beside it")
    args = parser.parse_args(arguments)
    if args.bins < 1:
        raise ValueError(f"--bins {args.bins}: give at least 1")

    references, recognised = read_table(args.text), read_ctm(args.ctm)
    if not recognised:
        print(f"{args.ctm}: no word was recognised, so there is no confidence to judge")
        return 0
    # This call raises ValueError if no utterance has words; single utterances may have none.
    keys_without_words(recognised, references, args.ctm)
    found = reliability(*rated_words(references, recognised), args.bins)
    print(
        f"{args.ctm}: {found.words} words, {found.wrong} wrong; mean confidence {found.confidence:.4f}, right "
        f"{found.right:.4f}, "
        f"expected calibration error {found.expected_calibration_error:.4f}"
    )
    for item in found.bins:
        if item.words:
            print(
                f"  {item.low:.2f} to {item.high:.2f}  {item.words:6} words  confidence {item.confidence:.3f}  right "
                f"{item.right:.3f}"
                f"  (95 %: {item.right_low:.3f} to {item.right_high:.3f})"
            )
    if args.output is not None:
        draw(found, args.title or str(args.ctm), args.output)
        content = {**found._asdict(), "bins": [item._asdict() for item in found.bins if item.words]}
        write_text(args.output.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_main(main)
