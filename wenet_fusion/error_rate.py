"""Word and character error rates from a minimum edit distance alignment; knows transcripts only."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from rapidfuzz.distance import Levenshtein

Unit = Literal["word", "char"]


class ErrorCounts(NamedTuple):
    """Edits that turn references into hypotheses, and the length of the references, in words or characters."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:  # type: ignore[override]
        return ErrorCounts(*(mine + theirs for mine, theirs in zip(self, other)))

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference word; 0 if there is neither, infinite for errors against empty references."""
        if self.reference:
            return self.errors / self.reference
        return math.inf if self.errors else 0.0

    def summary(self) -> str:
        """One line in the form of WeNet's compute-wer."""
        correct = self.reference - self.substitutions - self.deletions
        return (
            f"{100 * self.rate:4.2f} % N={self.reference} C={correct} "
            f"S={self.substitutions} D={self.deletions} I={self.insertions}"
        )


class AlignedPair(NamedTuple):
    """A reference token and what was recognised for it; None on one side is an insertion or a deletion."""

    reference: str | None
    hypothesis: str | None


class Alignment(NamedTuple):
    pairs: tuple[AlignedPair, ...]

    @property
    def counts(self) -> ErrorCounts:
        return ErrorCounts(
            substitutions=sum(None not in pair and pair.reference != pair.hypothesis for pair in self.pairs),
            deletions=sum(pair.hypothesis is None for pair in self.pairs),
            insertions=sum(pair.reference is None for pair in self.pairs),
            reference=sum(pair.reference is not None for pair in self.pairs),
        )


class ScoredUtterance(NamedTuple):
    key: str
    alignment: Alignment
    counts: ErrorCounts


class Scoring(NamedTuple):
    """Errors of a corpus."""

    total: ErrorCounts
    utterances: tuple[ScoredUtterance, ...]  # in the order of the references
    missing: tuple[str, ...]  # references without a hypothesis, scored as if it were empty
    extra: tuple[str, ...]  # hypotheses without a reference, not scored

    def report(self) -> str:
        """Text like that of WeNet's compute-wer: utterances aligned, keys without a partner, the overall line."""
        lines = []
        for key, alignment, counts in self.utterances:
            labels, recognised = [], []
            for pair in alignment.pairs:
                width = max(_width(token or "") for token in pair)
                labels.append(_pad(pair.reference or "", width))
                recognised.append(_pad(pair.hypothesis or "", width))
            lines += ["", f"utt: {key}", f"WER: {counts.summary()}"]
            lines += [f"lab: {' '.join(labels)}".rstrip(), f"rec: {' '.join(recognised)}".rstrip()]
        lines += ["", "=" * 75]
        lines += [f"no hypothesis, counted as deleted: {key}" for key in self.missing]
        lines += [f"no reference, not counted: {key}" for key in self.extra]
        lines += [f"Overall -> {self.total.summary()}", "=" * 75]
        return "\n".join(lines) + "\n"


def tokens(text: str, unit: Unit) -> list[str]:
    """Words, or the characters that are not white space."""
    words = text.split()
    return words if unit == "word" else list("".join(words))


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> Alignment:
    """An alignment of two token sequences with the fewest substitutions, deletions and insertions."""
    pairs: list[AlignedPair] = []
    for tag, ref_start, ref_end, hyp_start, hyp_end in Levenshtein.opcodes(reference, hypothesis):
        refs: list[str | None] = list(reference[ref_start:ref_end])
        hyps: list[str | None] = list(hypothesis[hyp_start:hyp_end])
        if tag == "delete":
            hyps = [None] * len(refs)
        elif tag == "insert":
            refs = [None] * len(hyps)
        pairs += map(AlignedPair, refs, hyps)
    return Alignment(tuple(pairs))


def score(references: Mapping[str, str], hypotheses: Mapping[str, str], unit: Unit = "word") -> Scoring:
    """Compare transcripts by key."""
    utterances = []
    for key, text in references.items():
        alignment = align(tokens(text, unit), tokens(hypotheses.get(key, ""), unit))
        utterances.append(ScoredUtterance(key, alignment, alignment.counts))
    return Scoring(
        total=sum((utterance.counts for utterance in utterances), ErrorCounts()),
        utterances=tuple(utterances),
        missing=tuple(key for key in references if key not in hypotheses),
        extra=tuple(key for key in hypotheses if key not in references),
    )


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
