"""How well words are dated: heard words beside the same words as they were spoken. Knows neither models nor audio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from wenet_fusion_runtime.results.result import Word
from wenet_fusion_runtime.results.timestamps import EmissionDelay

from wenet_fusion.text.error_rate import align


class DatedWord(NamedTuple):
    """A word that was recognised rightly."""

    spoken: Word
    heard: Word


class SideErrors(NamedTuple):
    """Seconds by which starts, or ends, of words are wrong. `bias` is signed: positive is late."""

    mean: float
    p50: float
    p95: float
    bias: float  # median of heard minus spoken


class TimeErrors(NamedTuple):
    """Of the words that were recognised rightly; wrong ones have no time to compare with."""

    words: int
    starts: SideErrors
    ends: SideErrors


def dated_words(spoken: Sequence[Word], heard: Sequence[Word]) -> list[DatedWord]:
    """The words of one utterance that are equal in an alignment with the fewest errors."""
    spoken_left, heard_left = iter(spoken), iter(heard)
    dated = []
    for pair in align([word.text for word in spoken], [word.text for word in heard]).pairs:
        one = None if pair.reference is None else next(spoken_left)
        other = None if pair.hypothesis is None else next(heard_left)
        if one is not None and other is not None and pair.reference == pair.hypothesis:
            dated.append(DatedWord(one, other))
    return dated


def all_dated_words(spoken: Mapping[str, Sequence[Word]], heard: Mapping[str, Sequence[Word]]) -> list[DatedWord]:
    """`dated_words` of the utterances that are in both."""
    return [pair for key in spoken if key in heard for pair in dated_words(spoken[key], heard[key])]


def time_errors(pairs: Sequence[DatedWord]) -> TimeErrors:
    """Raises ValueError if there is no pair."""
    if not pairs:
        raise ValueError("no word was recognised rightly, so there are no times to compare")
    starts, ends = zip(*(_late(pair) for pair in pairs))
    return TimeErrors(len(pairs), _side_errors(starts), _side_errors(ends))


def estimate_emission_delay(pairs: Sequence[DatedWord]) -> EmissionDelay:
    """The shifts, to the millisecond, that leave as many starts, and ends, too early as too late.

    Args:
        pairs: heard words as they were emitted, not moved by any shift before.

    Raises:
        ValueError: if there is no pair.
    """
    errors = time_errors(pairs)
    return EmissionDelay(round(-errors.starts.bias, 3), round(-errors.ends.bias, 3))


def moved(pair: DatedWord, delay: EmissionDelay) -> DatedWord:
    """The pair with the heard word moved by the shifts, neighbours left out of account."""
    start = pair.heard.start_seconds + delay.start_shift_seconds
    end = pair.heard.end_seconds + delay.end_shift_seconds
    return pair._replace(heard=pair.heard._replace(start_seconds=start, end_seconds=end))


def _late(pair: DatedWord) -> tuple[float, float]:
    return (
        pair.heard.start_seconds - pair.spoken.start_seconds,
        pair.heard.end_seconds - pair.spoken.end_seconds,
    )


def _side_errors(late: Iterable[float]) -> SideErrors:
    signed = np.array(tuple(late))
    p50, p95 = np.percentile(np.abs(signed), (50, 95))
    return SideErrors(float(np.abs(signed).mean()), float(p50), float(p95), float(np.median(signed)))
