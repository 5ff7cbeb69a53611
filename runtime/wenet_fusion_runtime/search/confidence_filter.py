"""Reject text that the model doubts, such as what it finds in noise and in other languages."""

from __future__ import annotations

import numpy as np

from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.scorer_set import ScorerSet
from wenet_fusion_runtime.search.search_protocol import ScoredSearch, Search


class ConfidenceFilter:
    """A search whose segment has no text if the confidence of its text is below a threshold.

    The confidence of a text of n tokens is the sum of their confidences divided by n + 1. Dividing by n + 1 lowers
    it for short texts, because the text found in noise or other languages is often a single word.

    Only the closed segment is judged: an open one shows its text. No token is final before the segment closes, because
    the whole text may still be rejected.

    Args:
        search: finds the text.
        threshold: least confidence of the text of the best hypothesis, 0 to 1.

    >>> from wenet_fusion_runtime.search.greedy import GreedySearch
    >>> scores = FrameScores(np.log([[0.6, 0.4]]), np.array([[3, 0]]), np.log([0.4]))
    >>> for threshold in (0.2, 0.4):
    ...     search = ConfidenceFilter(GreedySearch(), threshold)
    ...     search.advance(scores, np.zeros((1, 1, 4), np.float32))
    ...     print(search.hypotheses()[0].ids, search.final_hypotheses()[0].ids)
    (3,) (3,)
    (3,) ()
    """

    def __init__(self, search: Search, threshold: float) -> None:
        self._search, self._threshold = search, threshold
        self._blank = 0.0  # log-probability of blank in all frames

    def advance(self, scores: FrameScores, encoder_out: np.ndarray) -> None:
        """Decode T more frames; see `Search`."""
        self._search.advance(scores, encoder_out)
        for blank in scores.blank.tolist():  # one by one, so that the sum does not depend on the blocks
            self._blank += blank

    def commit(self, frame: int) -> None:
        """Do nothing: the whole text may still be rejected."""

    def set_scorers(self, scorers: ScorerSet) -> None:
        """Score the hypotheses again with other scorers; see `ScoredSearch`."""
        if isinstance(self._search, ScoredSearch):
            self._search.set_scorers(scorers)

    def stable_length(self) -> int:
        """Return 0: the whole text may still be rejected."""
        return 0

    def hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """Return the `count` best hypotheses so far, also doubtful ones."""
        return self._search.hypotheses(count)

    def final_hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """Return the `count` best hypotheses if the segment ends here; only the empty one if the best is doubtful."""
        found = self._search.final_hypotheses(count)
        confidences = found[0].confidences
        if not confidences or sum(confidences) / (len(confidences) + 1) >= self._threshold:
            return found
        return [Hypothesis((), self._blank, self._blank, (), (), alignment_score=self._blank)]
