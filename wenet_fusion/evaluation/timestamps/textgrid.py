"""Praat's TextGrid files. Knows neither models nor audio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from wenet_fusion_runtime.results.result import Token, Word

SHORTEST_SECONDS = 0.001  # Praat has no interval without a length


class Interval(NamedTuple):
    start: float
    end: float
    text: str


def format_textgrid(tiers: Mapping[str, Sequence[Word | Token]], seconds: float) -> str:
    """A text file of interval tiers; what lies between units is an interval without text.

    Args:
        tiers: units in the order of their times, without overlap, by the name of the tier.
        seconds: duration of the audio.
    """
    filled = {name: list(_filled(units, seconds)) for name, units in tiers.items()}
    end = max([seconds, *(intervals[-1].end for intervals in filled.values())])
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end:.6f}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, intervals) in enumerate(filled.items(), start=1):
        intervals[-1] = intervals[-1]._replace(end=end)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f"        name = {_quoted(name)}",
            "        xmin = 0",
            f"        xmax = {end:.6f}",
            f"        intervals: size = {len(intervals)}",
        ]
        for index, interval in enumerate(intervals, start=1):
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {interval.start:.6f}",
                f"            xmax = {interval.end:.6f}",
                f"            text = {_quoted(interval.text)}",
            ]
    return "\n".join(lines) + "\n"


def _filled(units: Sequence[Word | Token], seconds: float) -> Iterator[Interval]:
    """Intervals from 0 to `seconds`, or to the last unit's end, without gaps; each has a length."""
    position = 0.0
    for unit in units:
        start = unit.start_seconds if unit.start_seconds - position >= SHORTEST_SECONDS else position
        if start > position:
            yield Interval(position, start, "")
        position = max(unit.end_seconds, start + SHORTEST_SECONDS)
        yield Interval(start, position, unit.text)
    if seconds - position >= SHORTEST_SECONDS or not units:
        yield Interval(position, max(seconds, position + SHORTEST_SECONDS), "")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
