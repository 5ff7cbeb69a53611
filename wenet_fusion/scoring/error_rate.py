"""Error rates of transcripts, from alignments with the fewest edits, with confidence intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein
from wenet_fusion_runtime.results.display_width import display_width

from wenet_fusion.scoring.transcripts import Counting, counted

LEVEL = 0.95  # confidence level of intervals
_RESAMPLES = 1000
_BLOCK = 1 << 22  # largest number of drawn utterances in memory


class ErrorCounts(NamedTuple):
    """Edits that turn references into hypotheses, and the length of the references, in words or characters.

    >>> counts = ErrorCounts(substitutions=1, insertions=1, reference=10)
    >>> counts.rate
    0.2
    >>> counts.summary()
    '20.00 % N=10 C=9 S=1 D=0 I=1'
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:  # type: ignore[override]
        return ErrorCounts(*(mine + theirs for mine, theirs in zip(self, other)))

    @property
    def errors(self) -> int:
        """Return the number of edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Return errors per reference word; 0 without errors, infinity for errors against empty references."""
        if self.reference:
            return self.errors / self.reference
        return math.inf if self.errors else 0.0

    @property
    def deletion_rate(self) -> float:
        """Return deletions per reference word; 0 for empty references."""
        return self.deletions / self.reference if self.reference else 0.0

    def summary(self) -> str:
        """Return one line in the format of WeNet's compute-wer; without reference words the rate is "-"."""
        correct = self.reference - self.substitutions - self.deletions
        rate = f"{100 * self.rate:4.2f}" if self.reference else "-"
        return f"{rate} % N={self.reference} C={correct} S={self.substitutions} D={self.deletions} I={self.insertions}"


class AlignedPair(NamedTuple):
    """A reference token and the recognised token; None is the missing side of an insertion or deletion."""

    reference: str | None
    hypothesis: str | None

    @property
    def is_error(self) -> bool:
        """Return whether the two tokens differ."""
        return self.reference != self.hypothesis


class Alignment(NamedTuple):
    """Aligned pairs of a reference and a hypothesis, in order."""

    pairs: tuple[AlignedPair, ...]

    @property
    def counts(self) -> ErrorCounts:
        """Return the number of edits of each kind."""
        return ErrorCounts(
            substitutions=sum(None not in pair and pair.is_error for pair in self.pairs),
            deletions=sum(pair.hypothesis is None for pair in self.pairs),
            insertions=sum(pair.reference is None for pair in self.pairs),
            reference=sum(pair.reference is not None for pair in self.pairs),
        )


class ScoredUtterance(NamedTuple):
    """An utterance's alignment and its errors."""

    key: str
    alignment: Alignment
    counts: ErrorCounts


class Interval(NamedTuple):
    """A confidence interval at the level `LEVEL`, as fractions."""

    low: float
    high: float


class LengthBucket(NamedTuple):
    """Utterances whose references have `shortest` to `longest` words."""

    shortest: int
    longest: int
    utterances: int
    counts: ErrorCounts


class Scoring(NamedTuple):
    """Errors of a corpus, as `score` counts them.

    >>> scoring = score({"a": "one two", "b": "three"}, {"a": "one six", "b": "three"})
    >>> f"{scoring.total.rate:.1%}"
    '33.3%'
    """

    total: ErrorCounts
    utterances: tuple[ScoredUtterance, ...]  # in the order of the references
    missing: tuple[str, ...]  # references without a hypothesis, scored with an empty hypothesis
    extra: tuple[str, ...]  # hypotheses without a reference, not scored

    @property
    def utterances_wrong(self) -> int:
        """Return the number of utterances with an error."""
        return sum(utterance.counts.errors > 0 for utterance in self.utterances)

    @property
    def utterances_empty(self) -> int:
        """Return the number of utterances with reference words but no text, such as those that a grammar rejects."""
        counts = (utterance.counts for utterance in self.utterances)
        return sum(0 < found.reference == found.deletions and not found.insertions for found in counts)

    def insertions_per_hour(self, seconds: float) -> float | None:
        """Return the words inserted per hour of `seconds` of audio; None if the references have words.

        Silence, noise and foreign speech have empty references, so that there is no error rate.
        """
        return None if self.total.reference else self.total.insertions * 3600 / seconds

    def part(self, keys: Iterable[str]) -> Scoring:
        """Return the scoring of the utterances with these keys."""
        chosen = set(keys)
        utterances = tuple(utterance for utterance in self.utterances if utterance.key in chosen)
        total = sum((utterance.counts for utterance in utterances), ErrorCounts())
        return Scoring(total, utterances, tuple(key for key in self.missing if key in chosen), ())

    def worst(self, count: int) -> list[ScoredUtterance]:
        """Return up to `count` wrong utterances, most errors first; ties: shorter reference first."""
        wrong = [utterance for utterance in self.utterances if utterance.counts.errors]
        return sorted(wrong, key=lambda utterance: (-utterance.counts.errors, utterance.counts.reference))[:count]

    def commonest(self, count: int) -> list[tuple[AlignedPair, int]]:
        """Return the most frequent errors with their counts."""
        pairs = (pair for utterance in self.utterances for pair in utterance.alignment.pairs)
        return Counter(pair for pair in pairs if pair.is_error).most_common(count)

    def by_length(self) -> list[LengthBucket]:
        """Group utterances by reference length: 0, 1, 2-3, 4-7, 8-15 and so on; empty groups are left out."""
        buckets: dict[int, list[ErrorCounts]] = {}
        for utterance in self.utterances:
            buckets.setdefault(utterance.counts.reference.bit_length(), []).append(utterance.counts)
        return [
            LengthBucket((1 << bits) >> 1, (1 << bits) - 1, len(counts), sum(counts, ErrorCounts()))
            for bits, counts in sorted(buckets.items())
        ]

    def interval(self, seed: int = 0) -> Interval | None:
        """Return the bootstrap interval of the error rate, or None without reference words.

        Utterances are drawn with replacement, 1000 times; the same utterances and seed give the same interval.
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

    def insertions_text(self, noun: str = "words", seconds: float | None = None) -> str:
        """Describe the insertions of a corpus whose references are all empty.

        Args:
            noun: what is counted.
            seconds: duration of the corpus; None: unknown.

        >>> print(score({"noise": ""}, {"noise": "one two"}).insertions_text(seconds=900))
        2 words in 0.25 h without speech to recognise: 8.0 per hour, in 1 of 1 utterances
        """
        inserted = counted(self.total.insertions, noun)
        where = f"in {self.utterances_wrong:,} of {len(self.utterances):,} utterances"
        rate = None if seconds is None else self.insertions_per_hour(seconds)
        if seconds is None or rate is None:
            return f"{inserted} without speech to recognise, {where}"
        hours = f"{seconds / 3600:.3g} h without speech to recognise"
        return f"{inserted} in {hours}: {rate:.1f} per hour, {where}"

    def report(self, brief: bool = False, noun: str = "words", seconds: float | None = None) -> str:
        """Return a report in the format of WeNet's compute-wer: totals and, unless `brief`, aligned utterances.

        Args:
            brief: leave out the aligned utterances.
            noun: what is counted.
            seconds: duration of the corpus, for insertions per hour if all references are empty; None: unknown.
        """
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
        lines.append(f"Overall -> {self.total.summary()}")
        lines += self._interval_lines() if self.total.reference else [self.insertions_text(noun, seconds)]
        lines.append("=" * 75)
        return "\n".join(lines) + "\n"

    def _interval_lines(self) -> list[str]:
        interval = self.interval()
        if interval is None:
            return []
        low, high = (f"{100 * bound:.2f} %" for bound in interval)
        return [f"{100 * LEVEL:.0f} % interval -> {low} to {high}, bootstrap over utterances"]


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> Alignment:
    """Align two token sequences with the fewest substitutions, deletions and insertions (Levenshtein).

    >>> align(["one", "two"], ["one"]).counts.deletions
    1
    """
    pairs: list[AlignedPair] = []
    for edit in Levenshtein.opcodes(reference, hypothesis):
        refs: list[str | None] = list(reference[edit.src_start : edit.src_end])
        hyps: list[str | None] = list(hypothesis[edit.dest_start : edit.dest_end])
        if edit.tag == "delete":
            hyps = [None] * len(refs)
        elif edit.tag == "insert":
            refs = [None] * len(hyps)
        pairs += map(AlignedPair, refs, hyps)
    return Alignment(tuple(pairs))


def score(references: Mapping[str, str], hypotheses: Mapping[str, str], counting: Counting = Counting()) -> Scoring:
    """Compare transcripts by key.

    Args:
        references: correct transcripts by key.
        hypotheses: recognised transcripts by key; a missing one counts as empty.
        counting: unit of counting, and treatment of case and punctuation.

    >>> score({"a": "one two"}, {}).total.deletions
    2
    """
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


def pad(text: str, width: int) -> str:
    """Append spaces to a text up to `width` terminal columns."""
    return text + " " * (width - display_width(text))
