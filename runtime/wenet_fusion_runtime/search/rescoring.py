"""Two-pass decoding: attention decoders rescore the n-best list of a CTC search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.scorer_set import ScorerSet
from wenet_fusion_runtime.search.search_protocol import ScoredSearch, Search

# `AcousticModel.rescore`: maps blocks (1, T, D) of a segment's encoder output and N token sequences to (N, 2)
# log-probabilities of the left-to-right and the right-to-left decoder.
DecoderScores = Callable[[Sequence[np.ndarray], Sequence[tuple[int, ...]]], np.ndarray]


class RescoringSearch:
    """Run a CTC search frame by frame, and let attention decoders rescore its n-best list when the segment ends.

    Until then, hypotheses and stable prefix are those of the CTC search, the first pass.

    Args:
        first_pass: the CTC search.
        decoder_scores: runs the decoders.
        nbest: hypotheses to rescore.
        ctc_weight: weight of the CTC score.
        reverse_weight: share of the right-to-left decoder, 0 to 1.
    Source: Zhang et al. 2020 (U2, arXiv:2012.05481).

    >>> from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
    >>> prefers_short = lambda encoder_out, hypotheses: np.array([[-10.0 * len(ids), 0.0] for ids in hypotheses])
    >>> search = RescoringSearch(PrefixBeamSearch(), prefers_short, nbest=2, ctc_weight=0.5, reverse_weight=0.0)
    >>> search.advance(FrameScores(np.log([[0.7, 0.3]]), np.array([[3, 0]]), np.log([0.3])), np.zeros((1, 1, 8)))
    >>> search.hypotheses()[0].ids, search.final_hypotheses()[0].ids
    ((3,), ())
    """

    def __init__(
        self, first_pass: Search, decoder_scores: DecoderScores, nbest: int, ctc_weight: float, reverse_weight: float
    ) -> None:
        self._first_pass, self._decoder_scores = first_pass, decoder_scores
        self._nbest, self._ctc_weight, self._reverse_weight = nbest, ctc_weight, reverse_weight
        self._encoder_blocks: list[np.ndarray] = []

    def advance(self, scores: FrameScores, encoder_out: np.ndarray) -> None:
        """Decode T more frames; see `Search`."""
        self._first_pass.advance(scores, encoder_out)
        if scores.frames:
            self._encoder_blocks.append(encoder_out)

    def commit(self, frame: int) -> None:
        """Make the tokens that the first pass emitted before `frame` final; see `Search`."""
        self._first_pass.commit(frame)

    def set_scorers(self, scorers: ScorerSet) -> None:
        """Score the hypotheses of the first pass with other scorers; see `ScoredSearch`."""
        if isinstance(self._first_pass, ScoredSearch):
            self._first_pass.set_scorers(scorers)

    def stable_length(self) -> int:
        """Return the length of the first pass's stable prefix."""
        return self._first_pass.stable_length()

    def hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """Return the first pass's `count` best hypotheses, not rescored."""
        return self._first_pass.hypotheses(count)

    def final_hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """Return the `count` best hypotheses after rescoring."""
        hypotheses = self._first_pass.final_hypotheses(self._nbest)
        if self._encoder_blocks:
            scores = self._decoder_scores(self._encoder_blocks, [hypothesis.ids for hypothesis in hypotheses])
            hypotheses = rescore(hypotheses, scores, self._ctc_weight, self._reverse_weight)
        return hypotheses[:count]


def rescore(
    hypotheses: Sequence[Hypothesis], decoder_scores: np.ndarray, ctc_weight: float, reverse_weight: float
) -> list[Hypothesis]:
    """Rank hypotheses by the scores of both passes, best first; ties keep their order.

    `score = ctc_weight * ctc + attention + (ctc_weight + 1) * (context + lm + length + grammar)`, where
    `attention = (1 - reverse_weight) * left_to_right + reverse_weight * right_to_left`.

    The scores of hot words, language model, length penalty and grammar (context, lm, length, grammar) get the sum of
    both passes' weights: a boost that decides between two texts in the first pass also decides here if the decoders
    agree with CTC.

    Args:
        hypotheses: N hypotheses of one segment.
        decoder_scores: (N, 2) log-probability of each hypothesis and the end of the sentence, by the left-to-right and
            the right-to-left decoder.
        ctc_weight: weight of the CTC score.
        reverse_weight: share of the right-to-left decoder, 0 to 1; at 0 its column is not read.
    Raises:
        ValueError: `decoder_scores` has another shape.
    Source: Zhang et al. 2020 (U2, arXiv:2012.05481) and Wu et al. 2021 (U2++, arXiv:2106.05642).
    """
    if decoder_scores.shape != (len(hypotheses), 2):
        raise ValueError(f"decoder scores have shape {decoder_scores.shape}, expected {(len(hypotheses), 2)}")
    attention = decoder_scores[:, 0]
    if reverse_weight:
        attention = (1.0 - reverse_weight) * attention + reverse_weight * decoder_scores[:, 1]
    rescored = [
        hypothesis._replace(
            score=ctc_weight * hypothesis.ctc_score + score + (ctc_weight + 1.0) * _added(hypothesis),
            attention_score=score,
        )
        for hypothesis, score in zip(hypotheses, attention.tolist())
    ]
    return sorted(rescored, key=lambda hypothesis: -hypothesis.score)


def _added(hypothesis: Hypothesis) -> float:
    """Return the sum of the scorers' scores in the first pass."""
    return hypothesis.context_score + hypothesis.lm_score + hypothesis.length_score + hypothesis.grammar_score
