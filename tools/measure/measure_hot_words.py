#!/usr/bin/env python3
"""Measure hot words on a data.list: recall, precision and error rates with and without them.

The model runs once per utterance; the search then runs for each row of the table. A hot word is found if all its words
are recognised at their place in the transcript. Recall is the share of the occurrences in the transcripts that are
found, precision is the share of the recognised occurrences that are correct, and F1 is their harmonic mean. Word error
rates are given for all words, for words that occur in the list (inserted ones included), and for other words. Choose
boosts on a development set and report their effect on a test set.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skipped_recordings import all_problems
from wenet_fusion_runtime import AcousticModel, DecodingOptions, HotWord, load_model
from wenet_fusion_runtime.cli.search_arguments import add_search_arguments, search_options, usable_hot_words
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

from wenet_fusion.data.lists.manifest import Utterance, scan_manifest
from wenet_fusion.evaluation.decode_list import Condition, decode_list
from wenet_fusion.evaluation.options import EvaluationOptions, Variant
from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.model.chunking import Chunking, chunking_label, parse_chunking
from wenet_fusion.scoring.error_rate import AlignedPair, ErrorCounts, align
from wenet_fusion.scoring.transcripts import UNITS, Counting

WITHOUT, AS_LISTED = "without", "as listed"
PHRASES_SHOWN = 20  # maximum number of rows in the table of phrases


@dataclass(frozen=True)
class Occurrences:
    """Numbers of occurrences of a hot word in transcripts and in recognised texts."""

    spoken: int = 0  # in the transcripts
    written: int = 0  # in the recognised texts
    right: int = 0  # in both, at the same place

    def __add__(self, other: "Occurrences") -> "Occurrences":
        return Occurrences(self.spoken + other.spoken, self.written + other.written, self.right + other.right)

    @property
    def f1(self) -> float:
        """The harmonic mean of recall and precision; 1 if there is no occurrence on either side."""
        return 2 * self.right / (self.spoken + self.written) if self.spoken + self.written else 1.0


@dataclass(frozen=True)
class BoostResult:
    """The results with one setting of the boosts: a row of the table."""

    boosts: str  # WITHOUT, AS_LISTED, or the boost of all phrases
    found: Occurrences  # all hot words together
    phrases: Mapping[str, Occurrences]
    all_words: ErrorCounts
    listed_words: ErrorCounts  # of words that occur in the list
    other_words: ErrorCounts

    def record(self) -> dict[str, object]:
        """Return the results for JSON."""
        counts = {name: getattr(self, name)._asdict() for name in ("all_words", "listed_words", "other_words")}
        phrases = {phrase: asdict(found) for phrase, found in self.phrases.items()}
        return {"boosts": self.boosts, "found": asdict(self.found), "f1": self.found.f1, **counts, "phrases": phrases}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    args = _parser().parse_args(arguments)
    model = load_model(args.model)
    chunking = args.chunking or Chunking(model.meta.default_chunk, model.meta.default_left)
    hot_words, all_usable = usable_hot_words(args, model.meta.vocabulary)
    if not hot_words:
        raise ValueError("there are no usable hot words; give a list with --hot_words or phrases with --hot_word")
    lists = {WITHOUT: ()} | with_boosts(hot_words, args.boosts)
    plain = search_options(DecodingOptions(), args)
    options = {name: replace(plain, hot_words=words).resolved(model.meta) for name, words in lists.items()}
    utterances, skipped = scan_manifest(args.data)
    texts, unreadable = decode(model, utterances, chunking, options)
    skipped = all_problems(skipped, unreadable)

    phrases = [" ".join(word.phrase.split()) for word in hot_words]
    references = {utterance.key: utterance.text for utterance in utterances if utterance.key not in unreadable}
    measured = [measure(name, phrases, references, texts[name], Counting(args.unit)) for name in lists]
    mode = next(iter(options.values())).mode
    title = f"{args.data}: {len(references)} utterances, {mode} at {chunking_label(chunking)}, {len(phrases)} hot words"
    print("\n\n".join([title, table(measured), phrase_table(measured)]))
    if args.output is not None:
        record = {
            "model": str(args.model), "data": str(args.data), "mode": mode, "chunking": chunking_label(chunking),
            "hot_words": [word._asdict() for word in hot_words], "measured": [line.record() for line in measured],
            "skipped": skipped,
        }  # fmt: skip
        write_text(args.output, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    for problem in skipped:
        print(f"error: {problem}", file=sys.stderr)
    if skipped:
        print(f"error: {len(skipped)} utterances could not be read and were left out", file=sys.stderr)
    return 1 if skipped or not all_usable else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="exported file")
    parser.add_argument("data", type=Path, help="data.list with transcripts")
    parser.add_argument(
        "--boosts",
        type=float,
        nargs="+",
        default=[],
        metavar="NATS",
        help="boosts to try for all phrases, one after the other, in place of the boosts in the list",
    )
    parser.add_argument(
        "--chunking", type=parse_chunking, metavar="SIZE/LEFT", help="chunking, or 'full' (default: the model's)"
    )
    parser.add_argument("--unit", choices=UNITS, default="word", help="unit to count errors in (default: word)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file for all numbers")
    add_search_arguments(parser)
    return parser  # fmt: skip


def with_boosts(hot_words: Sequence[HotWord], boosts: Sequence[float]) -> dict[str, tuple[HotWord, ...]]:
    """Return a copy of the list for each of `boosts`, with this boost for all phrases. Without `boosts`, return the
    list itself.
    """
    if not boosts:
        return {AS_LISTED: tuple(hot_words)}
    return {f"{boost:g}": tuple(word._replace(boost=boost) for word in hot_words) for boost in boosts}


def decode(
    model: AcousticModel, utterances: Sequence[Utterance], chunking: Chunking, options: Mapping[str, DecodingOptions]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return the texts by name of options and key, and the reasons for unreadable recordings by key."""
    mode = str(next(iter(options.values())).mode)
    variants = tuple(Variant(name, each) for name, each in options.items())
    found = decode_list(model, utterances, EvaluationOptions((mode,), (chunking,), variants))
    label = chunking_label(chunking)
    texts = {name: found.texts(Condition(mode, name, label), model.meta.vocabulary) for name in options}
    return texts, found.unreadable


def measure(
    name: str, phrases: Sequence[str], references: Mapping[str, str], texts: Mapping[str, str], counting: Counting
) -> BoostResult:
    """Count occurrences and word errors over all utterances."""
    wanted = {phrase: counting.tokens(phrase) for phrase in phrases}
    listed = {token for phrase in wanted.values() for token in phrase}
    found = dict.fromkeys(phrases, Occurrences())
    counts = {True: ErrorCounts(), False: ErrorCounts()}  # key: whether the word occurs in the list
    for key, reference in references.items():
        alignment = align(counting.tokens(reference), counting.tokens(texts[key]))
        for phrase, words in wanted.items():
            found[phrase] += find(words, alignment.pairs)
        for pair in alignment.pairs:
            word = pair.hypothesis if pair.reference is None else pair.reference
            counts[word in listed] += type(alignment)((pair,)).counts
    total = sum(found.values(), Occurrences())
    return BoostResult(name, total, found, counts[True] + counts[False], counts[True], counts[False])


def find(phrase: Sequence[str], pairs: Sequence[AlignedPair]) -> Occurrences:
    """Count the occurrences of a phrase on both sides of an alignment."""
    spoken = [pair.reference for pair in pairs if pair.reference is not None]
    written = [pair.hypothesis for pair in pairs if pair.hypothesis is not None]
    right = [pair.reference if pair.reference == pair.hypothesis else None for pair in pairs]
    return Occurrences(*(_occurrences(phrase, text) for text in (spoken, written, right)))


def _occurrences(phrase: Sequence[str], text: Sequence[str | None]) -> int:
    return sum(list(text[start : start + len(phrase)]) == list(phrase) for start in range(len(text)))


def table(measured: Sequence[BoostResult]) -> str:
    """Return the results as a Markdown table."""
    head = ["boost", "recall", "precision", "F1", "WER", "WER of hot words", "WER of other words"]
    rows = [
        [
            line.boosts, _share(line.found.right, line.found.spoken), _share(line.found.right, line.found.written),
            f"{100 * line.found.f1:.2f} %",
            *(_share(of.errors, of.reference) for of in (line.all_words, line.listed_words, line.other_words)),
        ]
        for line in measured
    ]  # fmt: skip
    return markdown_table(head, rows)


def phrase_table(measured: Sequence[BoostResult]) -> str:
    """Return a table of spoken, correct and wrong occurrences, for the hot words with the most errors."""
    first = measured[0].phrases
    wrong = {
        phrase: sum(line.phrases[phrase].spoken + line.phrases[phrase].written - 2 * line.phrases[phrase].right
                    for line in measured)
        for phrase in first
    }  # fmt: skip
    shown = sorted(first, key=lambda phrase: -wrong[phrase])[:PHRASES_SHOWN]
    head = ["hot word: right + wrong", "spoken", *(line.boosts for line in measured)]
    rows = [
        [phrase, str(first[phrase].spoken), *(_right_and_wrong(line.phrases[phrase]) for line in measured)]
        for phrase in shown
    ]
    left = [f"\n{len(first) - len(shown)} more in the JSON file"] if len(first) > len(shown) else []
    return "\n".join([markdown_table(head, rows), *left])


def _right_and_wrong(found: Occurrences) -> str:
    return f"{found.right} + {found.written - found.right}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} % ({part}/{whole})" if whole else f"- ({part}/0)"


if __name__ == "__main__":
    run_main(main)
