"""Greedy CTC search: the most probable token of each frame."""

from __future__ import annotations

import math

import numpy as np

from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.results.vocabulary import BLANK
from wenet_fusion_runtime.search.frame_scores import FrameScores


class GreedySearch:
    """Take the most probable token of each frame, then remove repeats and blanks. Keeps one hypothesis.

    Args:
        start_frame: index of the first frame, counted from the start of the stream.
        previous: the token of the frame before the first one; first frames that repeat it emit no new token.

    >>> search = GreedySearch()
    >>> search.advance(FrameScores(np.log([[0.9], [0.8], [0.7]]), np.array([[3], [3], [4]]), np.log([0.1, 0.1, 0.1])))
    >>> search.hypotheses()[0].ids
    (3, 4)
    """

    def __init__(self, start_frame: int = 0, previous: int = BLANK) -> None:
        self._frame = start_frame
        self._previous = previous
        self._score = 0.0
        self._ids: list[int] = []
        self._frames: list[int] = []
        self._peaks: list[float] = []

    def advance(self, scores: FrameScores, encoder_out: np.ndarray | None = None) -> None:
        """Decode T more frames; see `Search`."""
        previous, score = self._previous, self._score
        for frame, (token, log_prob) in enumerate(
            zip(scores.ids[:, 0].tolist(), scores.log_probs[:, 0].tolist()), start=self._frame
        ):
            score += log_prob
            if token != BLANK:
                if token != previous:
                    self._ids.append(token)
                    self._frames.append(frame)
                    self._peaks.append(log_prob)
                elif self._peaks and log_prob > self._peaks[-1]:
                    self._peaks[-1] = log_prob
            previous = token
        self._frame += scores.frames
        self._previous, self._score = previous, score

    def commit(self, frame: int) -> None:
        """Do nothing: every token is final as soon as it is emitted."""

    def stable_length(self) -> int:
        """Return the number of tokens, since no later frame changes them."""
        return len(self._ids)

    def hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """Return a list of the only hypothesis, whose scores are the log-probability of its alignment."""
        confidences = tuple(math.exp(peak) for peak in self._peaks)
        best = Hypothesis(tuple(self._ids), self._score, self._score, tuple(self._frames), confidences)
        return [best._replace(alignment_score=self._score)][:count]

    def final_hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """Return the same as `hypotheses`: the end of the segment changes no score."""
        return self.hypotheses(count)
