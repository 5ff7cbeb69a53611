"""Timestamps of tokens: the times of speech, estimated from the frames that emitted the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class EmissionDelay(NamedTuple):
    """The delay between speech and CTC emission: medians that export measures on audio with known word times.

    CTC emits a token when it is certain, usually in one frame near the end of the word. So the correction moves starts
    back by most of a word, and ends only a little.
    """

    start_shift_seconds: float = 0.0  # spoken start minus start of the emitting frame
    end_shift_seconds: float = 0.0  # spoken end minus end of the emitting frame


class Span(NamedTuple):
    """A stretch of time."""

    start_seconds: float
    end_seconds: float


def correct_emission_delay(emitted: Sequence[Span], delay: EmissionDelay, earliest: float, latest: float) -> list[Span]:
    """Return the spans in which tokens were spoken, in order and without overlap, between `earliest` and `latest`.

    Args:
        emitted: the spans of the frames that emitted the tokens, with ascending starts and ends.
        delay: the correction. Spans that then overlap are cut in the middle of the overlap.
        earliest: the first possible time in seconds, e.g. the audio's start.
        latest: the last possible time in seconds, e.g. the audio's end.

    >>> correct_emission_delay([Span(1.0, 1.5)], EmissionDelay(start_shift_seconds=-0.25), earliest=0.0, latest=9.0)
    [Span(start_seconds=0.75, end_seconds=1.5)]
    """
    ends = [span.end_seconds + delay.end_shift_seconds for span in emitted]
    starts = [min(span.start_seconds + delay.start_shift_seconds, end) for span, end in zip(emitted, ends)]
    # Starts and ends both ascend, so a middle lies between the middles before and after it.
    for after in range(1, len(starts)):
        if starts[after] < ends[after - 1]:
            starts[after] = ends[after - 1] = (starts[after] + ends[after - 1]) / 2
    return [Span(min(max(s, earliest), latest), min(max(e, earliest), latest)) for s, e in zip(starts, ends)]
