"""Contents of a report, independent of its format: tables of error rates, and aligned utterances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wenet_fusion.scoring.error_rate import (
    LEVEL,
    AlignedPair,
    ErrorCounts,
    Interval,
    LengthBucket,
    ScoredUtterance,
    Scoring,
)
from wenet_fusion.scoring.transcripts import Counting, counted

WORST = 10  # number of utterances to show for each condition
COMMONEST = 8  # number of frequent errors to show for each condition
_CONTEXT = 6  # number of correct words to show on each side of an error


class ConditionErrors(NamedTuple):
    """Errors of one condition: a search with a chunking."""

    search: str
    chunking: str  # label; empty if unknown
    scoring: Scoring
    interval: Interval | None
    real_time_factor: float | None = None
    delay: str = ""  # percentiles 50 / 90 / 95 of the emission delay of words, ms; empty: not measured
    insertions_per_hour: float | None = None  # None: there are reference words, or the duration is unknown

    @property
    def name(self) -> str:
        """Search and chunking."""
        return f"{self.search} {self.chunking}".rstrip()


class Cell(NamedTuple):
    """A cell of a table: its text, a note such as an interval, and whether it is bold."""

    text: str
    note: str = ""
    strong: bool = False


class Table(NamedTuple):
    """A table with a title above and an explanation below."""

    title: str
    header: tuple[str, ...]  # the first column names the row
    rows: tuple[tuple[Cell, ...], ...]
    explanation: str = ""


class Fact(NamedTuple):
    """A setting or other fact of an evaluation, such as the commit."""

    name: str
    value: str


@dataclass(frozen=True)
class Report:
    """The contents of a report.

    >>> Report("WER", "one test set", Counting(), (), (Fact("commit", "abc"),)).facts[0].value
    'abc'
    """

    title: str
    about: str  # one sentence: model and data
    counting: Counting
    conditions: tuple[ConditionErrors, ...]
    facts: tuple[Fact, ...]  # settings, commit, hardware
    problems: tuple[str, ...] = ()  # unusable utterances, unmatched keys
    tables: tuple[Table, ...] = ()  # further tables: error rates by group, streaming

    @property
    def best(self) -> ConditionErrors:
        """Condition with the fewest errors; if there are several, the first."""
        return min(self.conditions, key=lambda condition: condition.scoring.total.errors)


def percent(fraction: float) -> str:
    """Return a rate in percent with two decimals."""
    return f"{100 * fraction:.2f}"


def report_title(counting: Counting, total: ErrorCounts, name: str) -> str:
    """Return the title of a report about `name`: the kind of error rate, or "Insertions" without reference words."""
    return f"{counting.rate_name if total.reference else 'Insertions'} of {name}"


def rate_text(condition: ConditionErrors, noun: str) -> str:
    """Return the error rate in percent; without reference words, the insertions and, if known, their rate."""
    if condition.scoring.total.reference:
        return f"{percent(condition.scoring.total.rate)} %"
    return ", ".join(filter(None, (insertions_text(condition.scoring.total, noun), _per_hour(condition))))


def insertions_text(total: ErrorCounts, noun: str) -> str:
    """Return the number of insertions as text, such as "1 word inserted"."""
    return f"{counted(total.insertions, noun)} inserted"


def _per_hour(condition: ConditionErrors) -> str:
    return "" if condition.insertions_per_hour is None else f"{condition.insertions_per_hour:.1f} per hour"


def interval_text(interval: Interval | None) -> str:
    """Return an interval in percent, empty for None."""
    return "" if interval is None else f"{100 * interval.low:.2f}\u2013{100 * interval.high:.2f}"


def rate_table(report: Report) -> Table:
    """Return the error rates, or without reference words the insertions: a row per search, a column per chunking."""
    conditions = {(condition.search, condition.chunking): condition for condition in report.conditions}
    chunkings = list(dict.fromkeys(condition.chunking for condition in report.conditions))
    words = report.conditions[0].scoring.total.reference
    rows = []
    for search in dict.fromkeys(condition.search for condition in report.conditions):
        cells = [Cell(search)]
        for chunking in chunkings:
            condition = conditions.get((search, chunking))
            if condition is None:
                cells.append(Cell("\u2013"))
                continue
            best = condition.scoring.total.errors == report.best.scoring.total.errors
            if words:
                cells.append(Cell(percent(condition.scoring.total.rate), interval_text(condition.interval), best))
            else:
                cells.append(Cell(f"{condition.scoring.total.insertions:,}", _per_hour(condition), best))
        rows.append(tuple(cells))
    noun = report.counting.noun
    rate = f"{report.counting.rate_name}, % of {counted(words, noun)}"
    first = rate if words else f"{noun} inserted; no reference {noun}"
    header = (first, *(label or "errors" for label in chunkings))
    if not words:
        return Table("Insertions", header, tuple(rows), "The references are empty, so there is no error rate.")
    explanation = (
        f"Each rate has its {100 * LEVEL:.0f} % confidence interval, by bootstrap over utterances. The lowest is bold."
    )
    return Table("Error rates", header, tuple(rows), explanation)


def detail_tables(report: Report) -> list[Table]:
    """Return the tables after the error rates: kinds of errors, deletions if there are reference words, and others."""
    deletions = [deletion_table(report)] if report.conditions[0].scoring.total.reference else []
    return [count_table(report), *deletions, *report.tables]


def count_table(report: Report) -> Table:
    """Return the numbers of errors by kind, with a row for each condition."""
    timed = any(condition.real_time_factor is not None for condition in report.conditions)
    delayed = any(condition.delay for condition in report.conditions)
    emptied = any(condition.scoring.utterances_empty for condition in report.conditions)
    utterances = len(report.conditions[0].scoring.utterances)
    header = ["", "errors", "substituted", "deleted", "inserted", f"utterances wrong, of {utterances:,}"]
    rows, explanation = [], ""
    for condition in report.conditions:
        scoring, total = condition.scoring, condition.scoring.total
        numbers = (total.errors, total.substitutions, total.deletions, total.insertions, scoring.utterances_wrong)
        cells = [Cell(condition.name), *(Cell(f"{number:,}") for number in numbers)]
        if emptied:
            cells.append(Cell(f"{scoring.utterances_empty:,}"))
        if timed:
            factor = condition.real_time_factor
            cells.append(Cell("\u2013" if factor is None else f"{factor:.4f}"))
        if delayed:
            cells.append(Cell(condition.delay or "\u2013"))
        rows.append(tuple(cells))
    if emptied:
        header.append("rejected or empty")
    if timed:
        header.append("real-time factor")
        explanation = (
            "Real-time factor: computing time of encoder and search, in batches, divided by the duration of the audio."
        )
    if delayed:
        header.append("emission delay, ms")
        explanation += (
            " Emission delay: time from the end of a correct word to the end of the frame that completes it, "
            "percentiles 50 / 90 / 95. A stream shows the word when the frame's chunk is complete."
        )
    return Table("Kinds of errors", tuple(header), tuple(rows), explanation.strip())


def deletion_table(report: Report) -> Table:
    """Return the share of deleted words by reference length, to reveal text that is lost in long utterances."""
    buckets = [{bucket.shortest: bucket for bucket in condition.scoring.by_length()} for condition in report.conditions]
    lengths = [bucket for bucket in report.conditions[0].scoring.by_length() if bucket.counts.reference]
    rows = tuple(
        (Cell(condition.name), *(Cell(percent(found[length.shortest].counts.deletion_rate)) for length in lengths))
        for condition, found in zip(report.conditions, buckets)
    )
    header = (f"deleted, % of the {report.counting.noun}", *map(_length_label, lengths))
    return Table("Deletions by length of the reference", header, rows)


def _length_label(bucket: LengthBucket) -> str:
    span = f"{bucket.shortest}" if bucket.shortest == bucket.longest else f"{bucket.shortest}\u2013{bucket.longest}"
    return f"{span} ({bucket.utterances:,} utt.)"


class Gap(NamedTuple):
    """A run of correct words that the report omits."""

    words: int


class ShownUtterance(NamedTuple):
    """An aligned utterance in the form that a report shows."""

    key: str
    counts: ErrorCounts
    pieces: tuple[AlignedPair | Gap, ...]


def worst_utterances(condition: ConditionErrors) -> list[ShownUtterance]:
    """Return the utterances with the most errors, without long runs of correct words."""
    return [_shortened(utterance) for utterance in condition.scoring.worst(WORST)]


def _shortened(utterance: ScoredUtterance) -> ShownUtterance:
    """Replace long runs of correct words by gaps."""
    pairs = utterance.alignment.pairs
    wrong = [index for index, pair in enumerate(pairs) if pair.is_error]
    shown = {near for index in wrong for near in range(index - _CONTEXT, index + _CONTEXT + 1)}
    pieces: list[AlignedPair | Gap] = []
    for index, pair in enumerate(pairs):
        if index in shown:
            pieces.append(pair)
        elif pieces and isinstance(pieces[-1], Gap):
            pieces[-1] = Gap(pieces[-1].words + 1)
        else:
            pieces.append(Gap(1))
    return ShownUtterance(utterance.key, utterance.counts, tuple(pieces))


def error_kind(pair: AlignedPair) -> str:
    """Return "substituted", "deleted" or "inserted"; an empty string for a correct pair."""
    if not pair.is_error:
        return ""
    if pair.hypothesis is None:
        return "deleted"
    return "inserted" if pair.reference is None else "substituted"


def error_text(pair: AlignedPair) -> str:
    """Return an error as text, such as "two deleted"."""
    if pair.hypothesis is None:
        return f"{pair.reference} deleted"
    return f"{pair.hypothesis} inserted" if pair.reference is None else f"{pair.reference} \u2192 {pair.hypothesis}"


def plain_rows(rows: Iterable[Sequence[str]]) -> tuple[tuple[Cell, ...], ...]:
    """Return rows of cells without notes."""
    return tuple(tuple(map(Cell, row)) for row in rows)
