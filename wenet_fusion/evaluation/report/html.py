"""A report as one self-contained HTML page, with a light and a dark theme, readable on phones."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from wenet_fusion.evaluation.report.content import (
    COMMONEST,
    ConditionErrors,
    Gap,
    Report,
    detail_tables,
    error_kind,
    error_text,
    interval_text,
    percent,
    rate_table,
    rate_text,
    worst_utterances,
)
from wenet_fusion.scoring.transcripts import counted

# Possible ticks of the scale, as fractions: 0.001 %, 0.002 %, 0.005 % and so on, to 1000 %.
_SCALE = [step * 10.0**power for power in range(-5, 2) for step in (1, 2, 5)][:-2]
_MOST_TICKS = 8


class Mark(NamedTuple):
    """A tick of the scale, with its position in percent of the width."""

    place: float
    label: str


class Whisker(NamedTuple):
    """An error rate and its interval, in percent of the scale's width."""

    condition: ConditionErrors
    low: float
    rate: float
    width: float  # width of the interval


class Chart(NamedTuple):
    """A scale and the error rates on it."""

    ticks: list[Mark]
    whiskers: list[Whisker]


def page(report: Report) -> str:
    """Return the page; all texts are escaped, so that none is interpreted as HTML."""
    environment = Environment(
        loader=PackageLoader("wenet_fusion.evaluation.report", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals.update(
        percent=percent, rate_text=rate_text, interval_text=interval_text, error_kind=error_kind, error_text=error_text,
        worst_utterances=worst_utterances, is_gap=lambda piece: isinstance(piece, Gap), commonest=COMMONEST,
        counted=counted,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        report=report, rates=rate_table(report), tables=detail_tables(report), chart=rate_chart(report.conditions)
    )


def rate_chart(conditions: Sequence[ConditionErrors]) -> Chart | None:
    """Place rates and intervals on a logarithmic scale; None if there are fewer than two rates or all are 0."""
    found = [(item, item.interval) for item in conditions if item.interval is not None]
    positive = [value for item, interval in found for value in (*interval, item.scoring.total.rate) if value > 0]
    if len(found) < 2 or not positive:
        return None
    first = max(index for index, value in enumerate(_SCALE) if index == 0 or value <= min(positive))
    last = min(
        index
        for index, value in enumerate(_SCALE)
        if (index > first and value >= max(positive)) or index == len(_SCALE) - 1
    )
    start, end = _SCALE[first], _SCALE[last]

    def place(value: float) -> float:
        if value <= start:
            return 0.0  # 0 itself has no place on a logarithmic scale
        return min(100.0, 100 * math.log(value / start) / math.log(end / start))

    every = 1 if last - first < _MOST_TICKS else 3
    ticks = [Mark(round(place(value), 2), f"{100 * value:g}") for value in _SCALE[first : last + 1 : every]]
    whiskers = []
    for item, interval in found:
        low, high = map(place, interval)
        rate = place(item.scoring.total.rate)
        whiskers.append(Whisker(item, round(low, 2), round(rate, 2), round(high - low, 2)))
    return Chart(ticks, whiskers)
