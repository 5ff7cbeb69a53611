"""Errors of word timestamps against reference times, and the estimate of the emission delay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from wenet_fusion_runtime.results.result import Word
from wenet_fusion_runtime.results.timestamps import EmissionDelay

from wenet_fusion.scoring.error_rate import align


class MatchedWord(NamedTuple):
    """A correctly recognised word, with reference and recognised times."""

    reference: Word
    recognised: Word


class BoundaryErrors(NamedTuple):
    """Errors of word starts, or of word ends, in seconds; mean, p50 and p95 are over absolute errors."""

    mean: float
    p50: float
    p95: float
    bias: float  # median of the signed errors, recognised minus reference time: positive is late


class TimestampErrors(NamedTuple):
    """Timestamp errors, over correctly recognised words only."""

    words: int
    starts: BoundaryErrors
    ends: BoundaryErrors


def match_words(reference: Sequence[Word], recognised: Sequence[Word]) -> list[MatchedWord]:
    """Pair the words of one utterance that are equal in a minimal edit alignment.

    >>> one, two = Word("one", 0.0, 0.5, 1.0), Word("two", 0.5, 1.0, 1.0)
    >>> match_words([one, two], [two._replace(start_seconds=0.75)])[0].recognised.start_seconds
    0.75
    """
    references, others = iter(reference), iter(recognised)
    matched = []
    for pair in align([word.text for word in reference], [word.text for word in recognised]).pairs:
        one = None if pair.reference is None else next(references)
        other = None if pair.hypothesis is None else next(others)
        if one is not None and other is not None and not pair.is_error:
            matched.append(MatchedWord(one, other))
    return matched


def match_all_words(
    reference: Mapping[str, Sequence[Word]], recognised: Mapping[str, Sequence[Word]]
) -> list[MatchedWord]:
    """Pair the words of all utterances that are in both mappings."""
    return [pair for key in reference if key in recognised for pair in match_words(reference[key], recognised[key])]


def timestamp_errors(pairs: Sequence[MatchedWord]) -> TimestampErrors:
    """Measure the timestamp errors of matched words.

    Raises:
        ValueError: there is no pair.
    """
    if not pairs:
        raise ValueError("no word was recognised correctly, so there are no times to compare")
    starts = [pair.recognised.start_seconds - pair.reference.start_seconds for pair in pairs]
    ends = [pair.recognised.end_seconds - pair.reference.end_seconds for pair in pairs]
    return TimestampErrors(len(pairs), _boundary_errors(starts), _boundary_errors(ends))


def estimate_emission_delay(pairs: Sequence[MatchedWord]) -> EmissionDelay:
    """Return the shifts of starts and of ends, rounded to 1 ms, that make the median errors zero.

    Args:
        pairs: matched words; the recognised times are uncorrected emission times.

    Raises:
        ValueError: there is no pair.
    """
    errors = timestamp_errors(pairs)
    return EmissionDelay(round(-errors.starts.bias, 3), round(-errors.ends.bias, 3))


def corrected(pair: MatchedWord, delay: EmissionDelay) -> MatchedWord:
    """Return the pair with the recognised word moved by the shifts; words may then overlap."""
    start = pair.recognised.start_seconds + delay.start_shift_seconds
    end = pair.recognised.end_seconds + delay.end_shift_seconds
    return pair._replace(recognised=pair.recognised._replace(start_seconds=start, end_seconds=end))


def _boundary_errors(differences: Sequence[float]) -> BoundaryErrors:
    signed = np.array(differences)
    p50, p95 = np.percentile(np.abs(signed), (50, 95))
    return BoundaryErrors(float(np.abs(signed).mean()), float(p50), float(p95), float(np.median(signed)))
