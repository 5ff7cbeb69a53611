"""Write TextGrid files, for Praat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from wenet_fusion_runtime.results.result import Token, Word

SHORTEST_SECONDS = 0.001  # Praat refuses empty intervals


class LabelledInterval(NamedTuple):
    """An interval of a tier, in seconds, with its text."""

    start: float
    end: float
    text: str


def format_textgrid(tiers: Mapping[str, Sequence[Word | Token]], seconds: float) -> str:
    """Return the text of a TextGrid file; pauses become intervals without text.

    Args:
        tiers: name of each tier -> its words or tokens, in order of time and without overlap.
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


def _filled(units: Sequence[Word | Token], seconds: float) -> Iterator[LabelledInterval]:
    """Yield intervals of positive length, without gaps, from 0 to `seconds` or, if later, the end of the last unit."""
    position = 0.0
    for unit in units:
        start = unit.start_seconds if unit.start_seconds - position >= SHORTEST_SECONDS else position
        if start > position:
            yield LabelledInterval(position, start, "")
        position = max(unit.end_seconds, start + SHORTEST_SECONDS)
        yield LabelledInterval(start, position, unit.text)
    if seconds - position >= SHORTEST_SECONDS or not units:
        yield LabelledInterval(position, max(seconds, position + SHORTEST_SECONDS), "")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
