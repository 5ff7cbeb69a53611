"""Reject speech outside of the grammar: compare the sentence with the greedy path."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.results.vocabulary import BLANK
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
from wenet_fusion_runtime.search.scorer_set import ScorerSet


class GrammarSearch:
    """A beam search within a grammar, which rejects hypotheses that are far less probable than the greedy path.

    The *grammar gap* of a hypothesis is the number of nats per token that the grammar costs: the log-probability of the
    greedy path (the most probable token of each frame), minus that of the hypothesis's best alignment, divided by the
    number of tokens of the longer one. The gap is 0 if greedy search finds the same text, however long the silence.
    Hypotheses with a larger gap than `threshold` are left out; the confidences of the others are multiplied by
    exp(-gap). If none is left, the text is empty. No token is final before the segment closes, because the whole
    sentence may still be rejected.

    Args:
        search: a beam search whose scorers contain a grammar.
        threshold: largest grammar gap; inf rejects nothing.
        beam_size: number of hypotheses in the beam.
        previous: the token of the frame before the first one.

    >>> from wenet_fusion_runtime.results.vocabulary import Vocabulary
    >>> from wenet_fusion_runtime.search.grammar.grammar import Grammar
    >>> from wenet_fusion_runtime.search.scorer_set import make_scorers
    >>> vocabulary = Vocabulary(["<blank>", "<unk>", "<sos/eos>", "one", "two"], "words")
    >>> scorers = make_scorers(vocabulary, grammar=Grammar("two"))
    >>> scores = FrameScores(np.log([[0.9, 0.09, 0.01]]), np.array([[3, 4, 0]]), np.log([0.01]))
    >>> for threshold in (1.0, 3.0):
    ...     search = GrammarSearch(PrefixBeamSearch(10, scorers=scorers), threshold, beam_size=10)
    ...     search.advance(scores)
    ...     print(search.final_hypotheses()[0].ids)
    ()
    (4,)
    """

    def __init__(self, search: PrefixBeamSearch, threshold: float, beam_size: int, previous: int = BLANK) -> None:
        self._search, self._threshold, self._beam_size = search, threshold, beam_size
        self._previous = previous
        self._best, self._blank = 0.0, 0.0  # log-probability of the greedy path, and of blank in all frames
        self._tokens = 0  # number of tokens of the greedy path

    def advance(self, scores: FrameScores, encoder_out: np.ndarray | None = None) -> None:
        """Decode T more frames; see `Search`."""
        self._search.advance(scores, encoder_out)
        best = zip(scores.ids[:, 0].tolist(), scores.log_probs[:, 0].tolist(), scores.blank.tolist())
        for token, log_prob, blank in best:
            self._best += log_prob
            self._blank += blank
            self._tokens += token not in (BLANK, self._previous)
            self._previous = token

    def commit(self, frame: int) -> None:
        """Do nothing: the whole sentence may still be rejected."""

    def set_scorers(self, scorers: ScorerSet) -> None:
        """Score the hypotheses again with other scorers, which contain the same grammar; see `ScoredSearch`."""
        self._search.set_scorers(scorers)

    def stable_length(self) -> int:
        """Return 0: the whole sentence may still be rejected."""
        return 0

    def hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """Return the `count` best beginnings of sentences; the empty one if all others are rejected."""
        return self._accepted(self._search.hypotheses(self._beam_size))[:count]

    def final_hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """Return the `count` best sentences if the segment ends here; the empty one if all others are rejected."""
        return self._accepted(self._search.final_hypotheses(self._beam_size))[:count]

    def _accepted(self, found: Sequence[Hypothesis]) -> list[Hypothesis]:
        judged = [self._judged(hypothesis) for hypothesis in found if hypothesis.score > -math.inf]
        kept = [each for each in judged if not each.ids or each.grammar_gap <= self._threshold]
        silence = Hypothesis((), self._blank, self._blank, (), (), alignment_score=self._blank)
        return kept or [self._judged(silence)]

    def _judged(self, hypothesis: Hypothesis) -> Hypothesis:
        gap = (self._best - hypothesis.alignment_score) / max(1, self._tokens, len(hypothesis.ids))
        if gap <= 0.0:
            return hypothesis
        trust = math.exp(-gap)
        confidences = tuple(confidence * trust for confidence in hypothesis.confidences)
        return hypothesis._replace(confidences=confidences, grammar_gap=gap)
