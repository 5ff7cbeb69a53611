#!/usr/bin/env python3
"""Measure how well an n-gram language model predicts texts: perplexity and out-of-vocabulary words."""

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sentences import TextFormat, add_format_arguments, read_sentences, text_format
from wenet_fusion_runtime.console import HelpFormatter, run_main
from wenet_fusion_runtime.search.language_models.language_model import KenlmModel, NgramModel, load_language_model


class Perplexity(NamedTuple):
    """Sums over sentences. The end of a sentence is predicted like a word of the vocabulary, and counts as one."""

    sentences: int
    words: int
    unknown: int  # number of words outside the model's vocabulary
    log_prob: float  # natural logarithm, of all words and sentence ends
    unknown_log_prob: float  # the part of log_prob that the unknown words contribute

    @property
    def of_all(self) -> float:
        """Perplexity over sentence ends and all words, with <unk> for unknown words."""
        return math.exp(-self.log_prob / (self.words + self.sentences))

    @property
    def of_known(self) -> float:
        """Perplexity over sentence ends and the words of the model's vocabulary only."""
        return math.exp((self.unknown_log_prob - self.log_prob) / (self.words - self.unknown + self.sentences))


def measure(model: NgramModel | KenlmModel, sentences: Iterable[Sequence[str]]) -> Perplexity:
    """Score every sentence with the model, and sum up."""
    count = words = unknown = 0
    total = unknown_total = 0.0
    for sentence in sentences:
        state = model.start()
        for word in sentence:
            log_prob, state = model.advance(state, word)
            total += log_prob
            if word not in model:
                unknown += 1
                unknown_total += log_prob
        total += model.finish(state)
        count += 1
        words += len(sentence)
    return Perplexity(count, words, unknown, total, unknown_total)


def report(model: NgramModel | KenlmModel, path: Path, text: TextFormat) -> str:
    """Return a line about a text. Raises ValueError if the text has no sentence."""
    found = measure(model, read_sentences(path, text))
    if not found.sentences:
        raise ValueError(f"{path}: it has no sentence")
    return (
        f"{path}: perplexity {found.of_all:.2f}, without unknown words {found.of_known:.2f}"
        f" ({found.sentences} sentences, {found.words} words, {found.unknown} of them unknown)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("model", type=Path, help="ARPA file (text or .gz) or binary file of KenLM")
    parser.add_argument("text", type=Path, nargs="+", help="text file with a sentence in each line")
    add_format_arguments(parser)
    args = parser.parse_args(arguments)
    model = load_language_model(args.model)
    for path in args.text:
        print(report(model, path, text_format(args)))
    return 0


if __name__ == "__main__":
    run_main(main)
