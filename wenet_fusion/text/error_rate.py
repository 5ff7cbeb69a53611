"""Error rates of transcripts from alignments with the fewest edits, and how sure they are. Knows no decoding."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from wenet_fusion.text.transcripts import Counting

LEVEL = 0.95  # of confidence intervals
_RESAMPLES = 1000
_BLOCK = 1 << 22  # drawn utterances that are in memory at a time


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

    @property
    def deletion_rate(self) -> float:
        return self.deletions / self.reference if self.reference else 0.0

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

    @property
    def is_error(self) -> bool:
        return self.reference != self.hypothesis


class Alignment(NamedTuple):
    pairs: tuple[AlignedPair, ...]

    @property
    def counts(self) -> ErrorCounts:
        return ErrorCounts(
            substitutions=sum(None not in pair and pair.is_error for pair in self.pairs),
            deletions=sum(pair.hypothesis is None for pair in self.pairs),
            insertions=sum(pair.reference is None for pair in self.pairs),
            reference=sum(pair.reference is not None for pair in self.pairs),
        )


class ScoredUtterance(NamedTuple):
    key: str
    alignment: Alignment
    counts: ErrorCounts


class Interval(NamedTuple):
    """Holds the error rate over all utterances of this kind in a share LEVEL of such samples."""

    low: float
    high: float


class LengthBucket(NamedTuple):
    """Utterances whose references have `shortest` to `longest` words."""

    shortest: int
    longest: int
    utterances: int
    counts: ErrorCounts


class Scoring(NamedTuple):
    """Errors of a corpus."""

    total: ErrorCounts
    utterances: tuple[ScoredUtterance, ...]  # in the order of the references
    missing: tuple[str, ...]  # references without a hypothesis, scored as if it were empty
    extra: tuple[str, ...]  # hypotheses without a reference, not scored

    @property
    def utterances_wrong(self) -> int:
        return sum(utterance.counts.errors > 0 for utterance in self.utterances)

    def worst(self, count: int) -> list[ScoredUtterance]:
        """The utterances with most errors, those that are wrong at all; among equals the shorter is worse."""
        wrong = [utterance for utterance in self.utterances if utterance.counts.errors]
        return sorted(wrong, key=lambda utterance: (-utterance.counts.errors, utterance.counts.reference))[:count]

    def commonest(self, count: int) -> list[tuple[AlignedPair, int]]:
        """The errors that were made most often, and how often."""
        pairs = (pair for utterance in self.utterances for pair in utterance.alignment.pairs)
        return Counter(pair for pair in pairs if pair.is_error).most_common(count)

    def by_length(self) -> list[LengthBucket]:
        """Utterances by the length of their reference: 0, 1, 2-3, 4-7, 8-15 and so on; buckets without any are left out."""
        buckets: dict[int, list[ErrorCounts]] = {}
        for utterance in self.utterances:
            buckets.setdefault(utterance.counts.reference.bit_length(), []).append(utterance.counts)
        return [
            LengthBucket((1 << bits) >> 1, (1 << bits) - 1, len(counts), sum(counts, ErrorCounts()))
            for bits, counts in sorted(buckets.items())
        ]

    def interval(self, seed: int = 0) -> Interval | None:
        """Bootstrap interval of the error rate: utterances are drawn with replacement, 1000 times; None without words.

        The same utterances and seed give the same interval.
        Source: Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation".
        """
        if not self.total.reference:
            return None
        count = len(self.utterances)
        errors = np.array([utterance.counts.errors for utterance in self.utterances])
        words = np.array([utterance.counts.reference for utterance in self.utterances])
        rng, rates = np.random.default_rng(seed), []
        rows = max(1, _BLOCK // count)
        for start in range(0, _RESAMPLES, rows):
            drawn = rng.integers(count, size=(min(rows, _RESAMPLES - start), count))
            rates.append(errors[drawn].sum(1) / np.maximum(words[drawn].sum(1), 1))
        low, high = np.quantile(np.concatenate(rates), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(float(low), float(high))

    def report(self, brief: bool = False) -> str:
        """Text like that of WeNet's compute-wer: utterances aligned, unless `brief`, keys without a partner, totals."""
        lines = []
        for key, alignment, counts in () if brief else self.utterances:
            labels, recognised = [], []
            for pair in alignment.pairs:
                width = max(display_width(token or "") for token in pair)
                labels.append(pad(pair.reference or "", width))
                recognised.append(pad(pair.hypothesis or "", width))
            lines += ["", f"utt: {key}", f"WER: {counts.summary()}"]
            lines += [f"lab: {' '.join(labels)}".rstrip(), f"rec: {' '.join(recognised)}".rstrip()]
        lines += ["", "=" * 75]
        lines += [f"no hypothesis, counted as deleted: {key}" for key in self.missing]
        lines += [f"no reference, not counted: {key}" for key in self.extra]
        lines += [f"Overall -> {self.total.summary()}", *self._interval_lines(), "=" * 75]
        return "\n".join(lines) + "\n"

    def _interval_lines(self) -> list[str]:
        found = self.interval()
        if found is None:
            return []
        return [
            f"{100 * LEVEL:.0f} % interval -> {100 * found.low:.2f} % to {100 * found.high:.2f} %, bootstrap over utterances"
        ]


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


def score(references: Mapping[str, str], hypotheses: Mapping[str, str], counting: Counting = Counting()) -> Scoring:
    """Compare transcripts by key."""
    utterances = []
    for key, text in references.items():
        alignment = align(counting.tokens(text), counting.tokens(hypotheses.get(key, "")))
        utterances.append(ScoredUtterance(key, alignment, alignment.counts))
    return Scoring(
        total=sum((utterance.counts for utterance in utterances), ErrorCounts()),
        utterances=tuple(utterances),
        missing=tuple(key for key in references if key not in hypotheses),
        extra=tuple(key for key in hypotheses if key not in references),
    )


def display_width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def pad(text: str, width: int) -> str:
    """The text and what it lacks to `width` columns."""
    return text + " " * (width - display_width(text))
