"""The interface of a search, which turns frames into hypotheses and a stable prefix."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.scorer_set import ScorerSet


class Search(Protocol):
    """Decode one segment, frame after frame.

    A search processes one frame at a time, so the hypotheses are the same, bit for bit, however the frames are divided
    among calls. `modes.py` lists the searches that users can choose.
    """

    def advance(self, scores: FrameScores, encoder_out: np.ndarray) -> None:
        """Decode T more frames.

        Args:
            scores: CTC scores of the frames.
            encoder_out: (1, T, D) float32 encoder output; searches without an attention decoder ignore it.
        """
        ...

    def commit(self, frame: int) -> None:
        """Make the tokens that the best hypothesis emitted before `frame` final: drop hypotheses that differ in them.

        Frames are counted from the start of the stream, as in `Hypothesis.frames`.
        """
        ...

    def stable_length(self) -> int:
        """Return the number of leading tokens of the best hypothesis that no later frame can change."""
        ...

    def hypotheses(self, count: int) -> list[Hypothesis]:
        """Return the `count` best hypotheses so far, best first; fewer if the search keeps fewer."""
        ...

    def final_hypotheses(self, count: int) -> list[Hypothesis]:
        """Return the `count` best hypotheses if the segment ends here, best first; `advance` may still follow."""
        ...


@runtime_checkable
class ScoredSearch(Search, Protocol):
    """A search whose scorers may change while it runs."""

    def set_scorers(self, scorers: ScorerSet) -> None:
        """Score all hypotheses again with other scorers, from the first token of the segment.

        The score of a hypothesis depends on its text only, not on when the scorers changed. Hypotheses that were pruned
        before do not return.
        """
        ...
