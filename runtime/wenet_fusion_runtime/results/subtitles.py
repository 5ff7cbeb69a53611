"""Cuts the words of a segment into subtitles that can be read. Knows no file format."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from wenet_fusion_runtime.results.result import Word
from wenet_fusion_runtime.results.words import joined_words

LINE_WIDTH = 42  # columns; an East Asian wide character takes two
LINES = 2
MAX_SECONDS = 7.0  # from the first word's start to the last one's end
PAUSE_SECONDS = 1.0  # a pause this long begins a new subtitle
MIN_SECONDS = 1.0  # shown at least so long, if the next subtitle leaves the time


class Cue(NamedTuple):
    """One subtitle."""

    start_seconds: float
    end_seconds: float
    lines: tuple[str, ...]  # at most LINES of at most LINE_WIDTH, but for a word that is wider


def make_cues(words: Sequence[Word], earliest: float = 0.0) -> list[Cue]:
    """Subtitles in order, none overlapping another or starting before `earliest` (seconds).

    Each holds as many words as fit into its lines and into MAX_SECONDS, without a pause of PAUSE_SECONDS.
    """
    groups: list[list[Word]] = []
    for word in words:
        if not groups or not _goes_on(groups[-1], word):
            groups.append([])
        groups[-1].append(word)
    cues: list[Cue] = []
    for index, group in enumerate(groups):
        start = max(earliest, group[0].start_seconds)
        end = max(group[-1].end_seconds, start + MIN_SECONDS)
        if index + 1 < len(groups):
            end = min(end, max(start, groups[index + 1][0].start_seconds))
        cues.append(Cue(start, end, _balanced(group)))
        earliest = end
    return cues


def _goes_on(group: Sequence[Word], word: Word) -> bool:
    if word.start_seconds - group[-1].end_seconds >= PAUSE_SECONDS:
        return False
    return word.end_seconds - group[0].start_seconds <= MAX_SECONDS and len(_filled([*group, word])) <= LINES


def _filled(words: Sequence[Word], width: int = LINE_WIDTH) -> tuple[str, ...]:
    """Lines that are filled one after the other."""
    lines: list[list[Word]] = [[]]
    for word in words:
        if lines[-1] and text_width(joined_words([*lines[-1], word])) > width:
            lines.append([])
        lines[-1].append(word)
    return tuple(joined_words(line) for line in lines)


def _balanced(words: Sequence[Word]) -> tuple[str, ...]:
    """As few lines as possible, the longest of them as short as possible."""
    count = len(_filled(words))
    narrowest = next(width for width in range(1, LINE_WIDTH + 1) if len(_filled(words, width)) <= count)
    return _filled(words, narrowest)


def text_width(text: str) -> int:
    """Columns that a text takes."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )
