"""Scores of frames as searches read them, and greedy search. Knows neither models nor text.

A search reads frame after frame and nothing else, so any cut of the frames gives the same hypotheses, bit for bit;
offline search is one `advance`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.results.vocabulary import BLANK


class FrameScores(NamedTuple):
    """The K most probable units of T frames; probabilities are natural logs."""

    log_probs: np.ndarray  # (T, K) float32, descending
    ids: np.ndarray  # (T, K) int64
    blank: np.ndarray  # (T,) float32, of blank, which may be missing among the K

    def part(self, start: int, stop: int | None = None) -> FrameScores:
        """Frames start to stop."""
        return FrameScores(self.log_probs[start:stop], self.ids[start:stop], self.blank[start:stop])

    def with_blank_penalty(self, penalty: float) -> FrameScores:
        """Blank made `penalty` nats less probable, then each frame's probabilities made to sum to one again."""
        blank = self.blank.astype(np.float64)
        norm = np.log1p(np.exp(np.minimum(blank, 0.0)) * math.expm1(-penalty))
        log_probs = (self.log_probs - norm[:, None] - penalty * (self.ids == BLANK)).astype(np.float32)
        order = np.argsort(-log_probs, axis=1, kind="stable")
        log_probs, ids = np.take_along_axis(log_probs, order, axis=1), np.take_along_axis(self.ids, order, axis=1)
        return FrameScores(log_probs, ids, (blank - penalty - norm).astype(np.float32))


class GreedySearch:
    """The most probable unit of each frame, repeats and blanks removed. Always one hypothesis.

    Args:
        start_frame: index of the first frame to come.
        previous: unit that the frame before it emitted. If that unit goes on at once, it is the same token.
    """

    def __init__(self, start_frame: int = 0, previous: int = BLANK) -> None:
        self._frame = start_frame
        self._previous = previous
        self._score = 0.0
        self._ids: list[int] = []
        self._frames: list[int] = []
        self._peaks: list[float] = []

    def advance(self, scores: FrameScores) -> None:
        """Decode T more frames."""
        previous, score = self._previous, self._score
        for frame, (unit, log_prob) in enumerate(
            zip(scores.ids[:, 0].tolist(), scores.log_probs[:, 0].tolist()), start=self._frame
        ):
            score += log_prob
            if unit != BLANK:
                if unit != previous:
                    self._ids.append(unit)
                    self._frames.append(frame)
                    self._peaks.append(log_prob)
                elif self._peaks and log_prob > self._peaks[-1]:
                    self._peaks[-1] = log_prob
            previous = unit
        self._frame += len(scores.ids)
        self._previous, self._score = previous, score

    def hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """The one hypothesis (for `count` >= 1); its scores are the log-probability of its alignment."""
        confidences = tuple(math.exp(peak) for peak in self._peaks)
        best = Hypothesis(tuple(self._ids), self._score, self._score, tuple(self._frames), confidences)
        return [best][:count]

    def final_hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """The same: nothing is added at the end."""
        return self.hypotheses(count)
