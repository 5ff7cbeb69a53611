"""Emission delays: the time from the end of a word until it is emitted, or shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from wenet_fusion_runtime.results.result import Hypothesis, Token, Word
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.results.words import group_words

from wenet_fusion.scoring.timestamp_errors import MatchedWord

POINTS = (50, 90, 95)  # percent


class DelayPercentiles(NamedTuple):
    """Percentiles 50, 90 and 95 of the delay of correctly recognised words, in milliseconds."""

    words: int
    p50: float
    p90: float
    p95: float

    def text(self) -> str:
        """Return the three percentiles as text.

        >>> DelayPercentiles(9, 40.0, 81.6, 120.0).text()
        '40 / 82 / 120'
        """
        return " / ".join(f"{value:.0f}" for value in self[1:])


def emission_delays(pairs: Iterable[MatchedWord]) -> list[float]:
    """Return the seconds from the end of each word to the end of its emission; negative if the emission ends first.

    Args:
        pairs: matched words; the recognised times are uncorrected emission times, or the times of the words' display.
    """
    return [pair.recognised.end_seconds - pair.reference.end_seconds for pair in pairs]


def delay_percentiles(delays: Sequence[float]) -> DelayPercentiles | None:
    """Return the percentiles of delays, which are given in seconds; None if there are no delays.

    >>> delay_percentiles([0.1, 0.2, 0.3])
    DelayPercentiles(words=3, p50=200.0, p90=280.0, p95=290.0)
    """
    if not delays:
        return None
    return DelayPercentiles(len(delays), *(1000 * np.percentile(delays, POINTS)).round(1).tolist())


def emitted_words(hypothesis: Hypothesis, vocabulary: Vocabulary, frame_seconds: float) -> tuple[Word, ...]:
    """Return the words of a hypothesis, with the times of the frames that emitted them.

    Args:
        hypothesis: result of a search that began at the first frame of the audio.
        vocabulary: vocabulary of the token ids.
        frame_seconds: length of an encoder frame.

    >>> vocabulary = Vocabulary(["<blank>", "<unk>", "<sos/eos>", "one"], "words")
    >>> hypothesis = Hypothesis((3,), ctc_score=-0.1, score=-0.1, frames=(5,), confidences=(0.9,))
    >>> [(word.text, word.end_seconds) for word in emitted_words(hypothesis, vocabulary, 0.25)]
    [('one', 1.5)]
    """
    return group_words(
        [
            Token(token, vocabulary.tokens[token], frame * frame_seconds, (frame + 1) * frame_seconds, confidence)
            for token, frame, confidence in zip(hypothesis.ids, hypothesis.frames, hypothesis.confidences)
        ],
        vocabulary,
    ).words
