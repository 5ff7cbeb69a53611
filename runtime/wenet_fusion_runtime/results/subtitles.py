"""Cut the words of a segment into subtitles that are comfortable to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from wenet_fusion_runtime.results.display_width import display_width
from wenet_fusion_runtime.results.result import Word
from wenet_fusion_runtime.results.words import joined_words

LINE_WIDTH = 42  # columns; an East Asian wide character takes two
LINES = 2
MAX_SECONDS = 7.0  # from the first word's start to the last one's end
PAUSE_SECONDS = 1.0  # a pause this long starts a new subtitle
MIN_SECONDS = 1.0  # shortest display time, unless the next subtitle starts earlier


class Cue(NamedTuple):
    """One subtitle."""

    start_seconds: float
    end_seconds: float
    lines: tuple[str, ...]  # at most LINES of at most LINE_WIDTH columns; a single word may be wider


def make_cues(words: Sequence[Word], earliest: float = 0.0) -> list[Cue]:
    """Return subtitles in order and without overlap; none starts before `earliest` (seconds).

    Each holds as many words as fit into its lines and into MAX_SECONDS, up to a pause of PAUSE_SECONDS.

    >>> make_cues([Word("one", 0.5, 0.9, 1.0), Word("two", 1.0, 1.75, 1.0)])
    [Cue(start_seconds=0.5, end_seconds=1.75, lines=('one two',))]
    """
    groups: list[list[Word]] = []
    for word in words:
        if not groups or not _continues(groups[-1], word):
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


def _continues(group: Sequence[Word], word: Word) -> bool:
    if word.start_seconds - group[-1].end_seconds >= PAUSE_SECONDS:
        return False
    return word.end_seconds - group[0].start_seconds <= MAX_SECONDS and len(_filled([*group, word])) <= LINES


def _filled(words: Sequence[Word], width: int = LINE_WIDTH) -> tuple[str, ...]:
    """Break words into lines, each filled before the next."""
    lines: list[list[Word]] = [[]]
    for word in words:
        if lines[-1] and display_width(joined_words([*lines[-1], word])) > width:
            lines.append([])
        lines[-1].append(word)
    return tuple(joined_words(line) for line in lines)


def _balanced(words: Sequence[Word]) -> tuple[str, ...]:
    """Break words into as few lines as possible, and make the longest line as short as possible."""
    count = len(_filled(words))
    narrowest = next(width for width in range(1, LINE_WIDTH + 1) if len(_filled(words, width)) <= count)
    return _filled(words, narrowest)
