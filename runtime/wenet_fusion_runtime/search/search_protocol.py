"""The interface of every search: frames in, hypotheses and a stable prefix out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.scorer_set import ScorerSet


class Search(Protocol):
    """Decode one segment, frame after frame.

    A search reads frame after frame and nothing else, so any cut of the frames gives the same hypotheses, bit for bit;
    offline decoding is one `advance`. `modes.py` lists the searches that users can choose.
    """

    def advance(self, scores: FrameScores, encoder_out: np.ndarray) -> None:
        """Decode T more frames.

        Args:
            scores: CTC scores of the frames.
            encoder_out: (1, T, D) float32 encoder output; searches without an attention decoder ignore it.
        """
        ...

    def commit(self, frame: int) -> None:
        """Make final the tokens of the best hypothesis that were emitted before `frame`; drop hypotheses that disagree.

        Frames count from the start of the stream, as `Hypothesis.frames` does.
        """
        ...

    def stable_length(self) -> int:
        """Return the length of the stable prefix: leading tokens of the best hypothesis that no later frame changes."""
        ...

    def hypotheses(self, count: int) -> list[Hypothesis]:
        """Return the `count` best hypotheses so far, best first; fewer if the search keeps fewer."""
        ...

    def final_hypotheses(self, count: int) -> list[Hypothesis]:
        """Return the `count` best hypotheses if the segment ends here, best first; the search can still go on."""
        ...


@runtime_checkable
class ScoredSearch(Search, Protocol):
    """A search whose scorers may change while it runs."""

    def set_scorers(self, scorers: ScorerSet) -> None:
        """Score all hypotheses by other scorers, from the first token of the segment, as if there had been no others.

        The score of a hypothesis depends on its text alone, never on when the scorers changed. Hypotheses that were
        pruned before do not return.
        """
        ...
