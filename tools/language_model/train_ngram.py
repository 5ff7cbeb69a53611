#!/usr/bin/env python3
"""Train an n-gram language model on text: interpolated modified Kneser-Ney, written as an ARPA file.

KenLM's `lmplz` estimates the model if it is on the PATH. Otherwise this program estimates the same probabilities; the
text must then fit into memory: 11 million words take 20 s and 1.1 GB at order 3.

Example: python tools/language_model/train_ngram.py data/train/text --keyed --order 3 --output lm.arpa
"""

import argparse
import gzip
import sys
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from kneser_ney import END, START, UNKNOWN, Order, estimate, prune_thresholds
from lmplz import find_lmplz, sizes_of, train_with_lmplz
from perplexity import report
from sentences import MARKS, add_format_arguments, read_sentences, text_format
from tqdm import tqdm
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import read_lines, replacing
from wenet_fusion_runtime.results.normalization import normalize_text
from wenet_fusion_runtime.results.vocabulary import RESERVED, WORD_START
from wenet_fusion_runtime.search.language_models.language_model import load_language_model

from wenet_fusion.text.vocabulary_file import read_vocabulary

SPECIAL = (*MARKS, "<unk>")  # in the order of START, END, UNKNOWN
ZERO = -99.0  # the logarithm of 0 in ARPA files


def read_words(path: Path) -> list[str]:
    """Read the words of a vocabulary: a units.txt of whole words, or a file with a word in each line. Raises OSError
    or ValueError.
    """
    lines = [line.split() for line in read_lines(path)]
    if [RESERVED[0], "0"] in lines[:1]:
        words = list(read_vocabulary(path, "words").tokens[len(RESERVED) :])
        if any(WORD_START in word for word in words):
            raise ValueError(f"{path}: its tokens are parts of words; give a list of words, or leave --vocabulary out")
        return words
    for number, line in enumerate(lines, start=1):
        if len(line) > 1:
            raise ValueError(f"{path}:{number}: expected one word in each line, found {' '.join(line)!r}")
    words = [normalize_text(line[0]) for line in lines if line]
    if not words:
        raise ValueError(f"{path}: holds no words; give a word in each line, or leave --vocabulary out")
    return words


def number_words(sentences: Iterable[Sequence[str]], words: dict[str, int], closed: bool) -> np.ndarray:
    """Return the text as int32 (P,): for each sentence START, the numbers of its words, and END. New words are added to
    `words`, or become UNKNOWN if the vocabulary is `closed`.
    """
    text = array("i")
    for sentence in sentences:
        text.append(START)
        if closed:
            text.extend([words.get(word, UNKNOWN) for word in sentence])
        else:
            text.extend([words.setdefault(word, len(words)) for word in sentence])
        text.append(END)
    return np.array(text, np.int32)


def write_arpa(path: Path, words: Sequence[str], orders: Sequence[Order]) -> None:
    """Write the model to `path`, compressed if its name ends in .gz. Values have seven decimals, so that probabilities
    sum to 1 within 1e-6.
    """
    compress = path.suffix == ".gz"
    with replacing(path) as temporary, (gzip.open if compress else open)(temporary, "wt", encoding="utf-8") as file:
        file.write("\\data\\\n")
        for number, order in enumerate(orders, start=1):
            file.write(f"ngram {number}={len(order.words)}\n")
        for number, order in enumerate(orders, start=1):
            file.write(f"\n\\{number}-grams:\n")
            write_ngrams(file, words, order, f"write {number}-grams", has_backoff=number < len(orders))
        file.write("\n\\end\\\n")


def write_ngrams(file: TextIO, words: Sequence[str], order: Order, description: str, has_backoff: bool) -> None:
    """Write a line for each n-gram, with a progress bar."""
    with np.errstate(divide="ignore"):
        log_probs = np.clip(np.log10(order.probabilities), ZERO, 0.0)
        backoffs = np.maximum(np.log10(order.backoffs), ZERO)
    rows = zip(log_probs.tolist(), order.words.tolist(), backoffs.tolist())
    for log_prob, ngram, backoff in tqdm(rows, description, len(log_probs), unit="n-gram", leave=False, disable=None):
        text = " ".join([words[word] for word in ngram])
        file.write(f"{log_prob:.7f}\t{text}\t{backoff:.7f}\n" if has_backoff else f"{log_prob:.7f}\t{text}\n")


def describe_sizes(sizes: Sequence[int]) -> str:
    """Return the numbers of n-grams of each order as text."""
    return ", ".join(f"{size} {number}-grams" for number, size in enumerate(sizes, start=1))


def summary(path: Path, text: np.ndarray, orders: Sequence[Order]) -> str:
    """Return one line about the sizes of the model."""
    sentences = int((text == START).sum())
    sizes = describe_sizes([len(order.words) for order in orders])
    return f"{path}: {sizes} from {len(text) - 2 * sentences} words in {sentences} sentences"


def choose_lmplz(estimator: str, texts: Sequence[Path], has_vocabulary: bool) -> str | None:
    """Return the path of lmplz, or None if this program is to estimate the model.

    lmplz cannot estimate <unk> from a text: it refuses texts with <unk>, and cannot count other words as <unk>.

    Raises:
        ValueError: lmplz was chosen but cannot be used.
    """
    if estimator == "own":
        return None
    program = find_lmplz()
    reason = "is not on the PATH; install KenLM" if program is None else ""
    if program and has_vocabulary:
        reason = "cannot count words outside a vocabulary as <unk>"
    elif program and any("<unk>" in line.split() for path in texts for line in read_lines(path)):
        reason = "refuses texts with <unk>"
    if reason and estimator == "lmplz":
        raise ValueError(f"--estimator lmplz: lmplz {reason}; leave the option out")
    return None if reason else program


def train_here(
    args: argparse.Namespace, sentences: Iterable[Sequence[str]], thresholds: Sequence[int], vocabulary: Sequence[str]
) -> None:
    """Estimate the model in this process and write it."""
    words = {word: number for number, word in enumerate(SPECIAL)}
    for word in vocabulary:
        words.setdefault(word, len(words))
    known = len(words)
    text = number_words(sentences, words, closed=args.vocabulary is not None)
    if not (text > END).any():
        raise ValueError(f"{', '.join(map(str, args.text))}: it has no word")
    if args.vocabulary and not (text > UNKNOWN).any():
        raise ValueError(f"{args.vocabulary}: none of its {known - len(SPECIAL)} words occurs in the text; compare the"
                         " upper and lower case of both")  # fmt: skip
    orders = estimate(text, len(words), thresholds)
    write_arpa(args.output, list(words), orders)
    for number, order in enumerate(orders, start=1):
        one, two, more, estimated = order.discounts
        if not estimated:
            print(f"note: the text does not determine the discounts of {number}-grams (too small or too regular);"
                  f" used {one:g}, {two:g} and {more:g} for counts 1, 2 and 3 or more", file=sys.stderr)  # fmt: skip
    print(summary(args.output, text, orders))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="+", metavar="TEXT", help="text file with a sentence in each line")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="ARPA file; *.gz is compressed")
    parser.add_argument("--order", type=int, default=3, metavar="N", help="length of the longest n-grams (default: 3)")
    parser.add_argument(
        "--prune", type=int, nargs="+", default=[0], metavar="COUNT",
        help="for each order, leave out n-grams with at most this count; the first number is 0, and the last one"
        " also applies to higher orders. 0 0 1 drops 3-grams and longer n-grams that occur once (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--vocabulary", type=Path, metavar="FILE",
        help="vocabulary of the model: units.txt, or a file with a word in each line; other words are counted as <unk>"
        " (default: all words of TEXT; <unk> then gets the probability of a word that does not occur)",
    )  # fmt: skip
    parser.add_argument(
        "--estimator", choices=("auto", "lmplz", "own"), default="auto",
        help="lmplz: KenLM's program; own: this program; auto: lmplz if it is on the PATH and usable (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--evaluate", type=Path, nargs="+", default=[], metavar="TEXT", help="texts to print the perplexity of"
    )
    add_format_arguments(parser)
    args = parser.parse_args(arguments)
    if args.order < 1:
        raise ValueError(f"--order {args.order} must be at least 1")
    thresholds = prune_thresholds(args.prune, args.order)

    program = choose_lmplz(args.estimator, args.text, args.vocabulary is not None)
    vocabulary = read_words(args.vocabulary) if args.vocabulary else []
    sentences = (sentence for path in args.text for sentence in read_sentences(path, text_format(args)))
    if program:
        count, lines = train_with_lmplz(program, sentences, args.output, thresholds)
        print(f"{args.output}: {describe_sizes(sizes_of(args.output))} from {count} words in {lines} sentences (lmplz)")
    else:
        train_here(args, sentences, thresholds, vocabulary)
    if args.evaluate:
        model = load_language_model(args.output)
        for path in args.evaluate:
            print(report(model, path, text_format(args)))
    return 0


if __name__ == "__main__":
    run_main(main)
