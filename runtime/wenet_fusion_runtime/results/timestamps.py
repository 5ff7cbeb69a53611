"""From the frames that emitted tokens to when they were spoken. Knows neither models nor text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class WordTimes(NamedTuple):
    """How far what was spoken lies from what CTC emitted: medians that export measures where it is told the true times.

    CTC emits a token once it is sure of it, most often in one frame near the word's end, so starts move to the left by
    most of a word and ends by little.
    """

    start_shift_seconds: float = 0.0  # spoken start minus start of the emitting frame
    end_shift_seconds: float = 0.0  # spoken end minus end of the emitting frame


class Span(NamedTuple):
    start_seconds: float
    end_seconds: float


def spoken_spans(emitted: Sequence[Span], word_times: WordTimes, earliest: float, latest: float) -> list[Span]:
    """When tokens were spoken: in order, without overlap, between `earliest` and `latest`.

    Args:
        emitted: the spans of the frames that emitted them; neither starts nor ends may go back.
        word_times: what the spans are moved by. Where two would then overlap, they meet in the middle of the overlap.
        earliest, latest: seconds, such as the audio's start and end.
    """
    if not emitted:
        return []
    starts, ends = np.array(emitted, dtype=np.float64).T + np.array(word_times)[:, None]
    starts = np.minimum(starts, ends)
    middles = (starts[1:] + ends[:-1]) / 2
    # Starts and ends both ascend, so a middle lies between the middles before and after it.
    overlaps = starts[1:] < ends[:-1]
    starts[1:][overlaps] = ends[:-1][overlaps] = middles[overlaps]
    return [Span(*pair) for pair in np.clip([starts, ends], earliest, latest).T.tolist()]
