"""Scores of encoder frames, the input of every search."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wenet_fusion_runtime.results.vocabulary import BLANK


class FrameScores(NamedTuple):
    """The K most probable tokens of each of T frames, with natural-log probabilities.

    >>> scores = FrameScores(np.log([[0.6, 0.4], [0.9, 0.1]]), np.array([[3, 0], [0, 3]]), np.log([0.4, 0.9]))
    >>> scores.frames, scores.part(1).frames
    (2, 1)
    >>> scores.with_blank_penalty(2.0).ids[1].tolist()  # blank is still the most probable token
    [0, 3]
    """

    log_probs: np.ndarray  # (T, K) float32, descending
    ids: np.ndarray  # (T, K) int64
    blank: np.ndarray  # (T,) float32, log-probability of blank, also if it is not among the K tokens

    @property
    def frames(self) -> int:
        """The number of frames, T."""
        return len(self.blank)

    def part(self, start: int, stop: int | None = None) -> FrameScores:
        """Return the frames from `start` up to but not including `stop`."""
        return FrameScores(self.log_probs[start:stop], self.ids[start:stop], self.blank[start:stop])

    def with_blank_penalty(self, penalty: float) -> FrameScores:
        """Subtract `penalty` nats from blank, then normalise the probabilities of each frame to sum to one."""
        blank = self.blank.astype(np.float64)
        norm = np.log1p(np.exp(np.minimum(blank, 0.0)) * math.expm1(-penalty))
        log_probs = (self.log_probs - norm[:, None] - penalty * (self.ids == BLANK)).astype(np.float32)
        order = np.argsort(-log_probs, axis=1, kind="stable")
        log_probs, ids = np.take_along_axis(log_probs, order, axis=1), np.take_along_axis(self.ids, order, axis=1)
        return FrameScores(log_probs, ids, (blank - penalty - norm).astype(np.float32))
