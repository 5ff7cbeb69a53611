"""CTC prefix beam search over the most probable tokens of each frame."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np

from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.results.vocabulary import BLANK
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.prefix_tree import OUTSIDE, Emission, Prefix, Sums, drop
from wenet_fusion_runtime.search.scorer_set import ScorerSet

_NEVER = -math.inf
_NO_TOKEN = -1


class PrefixBeamSearch:
    """CTC prefix beam search in log space: sum the alignment probabilities of each prefix, keep the `beam_size` best.

    The sums are exact for the prefixes and tokens that are not pruned. The search also keeps the best alignment of each
    prefix, which gives the frames of its tokens. Ties are broken by position, so results are reproducible. A frame in
    which only blank is considered keeps the order of the prefixes; each further one in a row costs one addition.

    Args:
        beam_size: prefixes kept after each frame.
        start_frame: index of the first frame, counted from the start of the stream.
        previous: the token of the frame before the first one; first frames that repeat it emit no new token.
        scorers: add to the CTC score of each prefix; an empty set costs nothing.
        token_threshold: prune tokens more than this many nats below the frame's best, unless `scorers` can add enough
            to lift them above that limit; blank is never pruned.
        blank_skip_threshold: keep only blank in frames where it is more probable than this.
    Source: Graves 2012, "Sequence Transduction with Recurrent Neural Networks", section 2.5, in the form of Hannun et
    al. 2014 (arXiv:1408.2873), algorithm 1.

    >>> ids = np.array([[3, 0, 4], [0, 3, 4], [4, 0, 3]])
    >>> log_probs = np.log([[0.7, 0.2, 0.1], [0.8, 0.1, 0.1], [0.5, 0.4, 0.1]])
    >>> search = PrefixBeamSearch(beam_size=4)
    >>> search.advance(FrameScores(log_probs, ids, np.log([0.2, 0.8, 0.4])))
    >>> [hypothesis.ids for hypothesis in search.hypotheses(2)]
    [(3, 4), (3,)]
    """

    _beam: Sequence[Prefix] = ()  # for `__del__`, which also runs if the constructor failed

    def __init__(
        self,
        beam_size: int = 10,
        start_frame: int = 0,
        previous: int = BLANK,
        scorers: ScorerSet = ScorerSet(),
        token_threshold: float = math.inf,
        blank_skip_threshold: float = 1.0,
    ) -> None:
        if beam_size < 1:
            raise ValueError(f"beam_size must be at least 1, found {beam_size}")
        self._beam_size = beam_size
        self._frame = start_frame
        self._scorers = scorers
        self._is_scored = bool(scorers)
        self._token_threshold = token_threshold
        self._blank_skip = math.log(blank_skip_threshold)
        self._offset = 0.0  # log-probability of the frames in which only blank was considered; part of every sum
        # True if every alignment ends in blank: then one more blank changes only the offset.
        self._in_blank = previous == BLANK
        root = Prefix(_NO_TOKEN if self._in_blank else previous, None, scorers.start())
        root.sums = (0.0, _NEVER, 0.0, 0.0, _NEVER, None, None)
        if not self._in_blank:
            root.sums = (_NEVER, 0.0, 0.0, _NEVER, 0.0, None, None)
        self._beam = [root]  # best first

    def __del__(self) -> None:
        drop(self._beam)  # frees the whole tree at once: see `Prefix`

    def advance(self, scores: FrameScores, encoder_out: np.ndarray | None = None) -> None:
        """Decode T more frames; see `Search`."""
        alive, first = self._considered(scores), 0
        tokens = list(zip(scores.ids[alive].tolist(), scores.log_probs[alive].tolist()))
        for blank, end in zip(scores.blank.tolist(), alive.sum(axis=1).cumsum().tolist()):
            if end > first:
                self._advance_frame(blank, tokens[first:end])
            else:
                self._advance_blank(blank)
            self._frame += 1
            first = end

    def _considered(self, scores: FrameScores) -> np.ndarray:
        """Return a mask (T, K) of the tokens other than blank that are not pruned."""
        limit = (np.maximum(scores.log_probs[:, 0], scores.blank) - self._token_threshold)[:, None]
        if self._is_scored:
            limit = limit - self._scorers.most_gained[scores.ids]
        alive = (scores.log_probs > limit) & (scores.ids != BLANK)
        if self._blank_skip < 0.0:
            alive &= scores.blank[:, None] <= self._blank_skip
        return alive

    def _advance_blank(self, blank: float) -> None:
        """Decode a frame in which only blank is considered: the beam keeps its prefixes and their order."""
        self._offset += blank
        if not self._in_blank:
            for node in self._beam:
                best, emission = _best(node.sums)
                node.sums = (node.sums[2], _NEVER, node.sums[2], best, _NEVER, emission, None)
            self._in_blank = True

    def _advance_frame(self, blank: float, tokens: Sequence[tuple[int, float]]) -> None:
        """Decode one frame: each prefix stays or is extended by one of `tokens`, pairs of id and log-probability."""
        candidates = self._stays(blank, dict(tokens))
        cutoff = candidates[-1][0] if len(candidates) >= self._beam_size else _NEVER
        extend = self._scored_extensions if self._is_scored else self._extensions
        extensions = extend(tokens, cutoff)
        if extensions:
            candidates += extensions
            candidates.sort(key=_score, reverse=True)
        chosen = [
            (node, sums) if sums is not None else self._extended(node, token, log_prob)
            for score, node, sums, token, log_prob in candidates[: self._beam_size]
            if score > _NEVER
        ]
        before, self._beam = self._beam, [node for node, _ in chosen]
        for node in before:
            node.sums = OUTSIDE
        for node, sums in chosen:
            node.sums = sums
        for node in before:
            if node.sums is OUTSIDE:
                node.leave()
        self._in_blank = False

    def _stays(self, blank: float, log_probs: dict[int, float]) -> list[_Candidate]:
        """Return every prefix of the beam after one more frame that adds no token to it, best first."""
        candidates: list[_Candidate] = []
        for node in self._beam:
            _, token_sum, total, blank_max, token_max, _, emission = sums = node.sums
            best, best_emission = _best(sums)
            blank_sum, blank_max = total + blank, best + blank
            log_prob = log_probs.get(node.token)
            if log_prob is None:
                sums = (blank_sum, _NEVER, blank_sum, blank_max, _NEVER, best_emission, None)
                candidates.append((blank_sum + node.bonus, node, sums, BLANK, 0.0))
                continue
            token_sum += log_prob
            token_max += log_prob
            if emission is not None and log_prob > emission.log_prob:
                emission = Emission(emission.frame, log_prob, emission.previous)
            parent = node.parent
            if parent is not None and parent.sums is not OUTSIDE:
                # The parent is in the beam too and reaches this prefix with the token: both belong to one sum.
                parent_sum, parent_max, parent_emission = _source(parent, node.token)
                token_sum = _add(token_sum, parent_sum + log_prob)
                if parent_max + log_prob > token_max:
                    token_max = parent_max + log_prob
                    emission = Emission(self._frame, log_prob, parent_emission)
            total = _add(blank_sum, token_sum)
            sums = (blank_sum, token_sum, total, blank_max, token_max, best_emission, emission)
            candidates.append((total + node.bonus, node, sums, BLANK, 0.0))
        candidates.sort(key=_score, reverse=True)
        return candidates

    def _extensions(self, tokens: Sequence[tuple[int, float]], cutoff: float) -> list[_Candidate]:
        """Return the extensions of the beam's prefixes by a token that score above `cutoff` and are not in the beam."""
        candidates: list[_Candidate] = []
        for token, log_prob in tokens:
            for node in self._beam:
                score = node.sums[2] + log_prob
                if score <= cutoff:
                    break  # the beam is sorted: all that follow are below the cutoff too
                child = node.children.get(token)
                if child is not None and child.sums is not OUTSIDE:
                    continue
                if node.token == token:
                    score = node.sums[0] + log_prob
                    if score <= cutoff:
                        continue
                candidates.append((score, node, None, token, log_prob))
        return candidates

    def _scored_extensions(self, tokens: Sequence[tuple[int, float]], cutoff: float) -> list[_Candidate]:
        """Return the same as `_extensions`, with the scores of `scorers` added."""
        candidates: list[_Candidate] = []
        scorers = self._scorers
        for token, log_prob in tokens:
            reach = log_prob + float(scorers.most_gained[token])
            for node in self._beam:
                if node.sums[2] + node.bonus + reach <= cutoff:
                    break
                child = node.children.get(token)
                if child is not None and child.sums is not OUTSIDE:
                    continue
                scored = child.score if child is not None else node.tried.get(token)
                if scored is None:
                    scored = node.tried[token] = scorers.advance(node.score, token)
                before = node.sums[0] if node.token == token else node.sums[2]
                score = before + log_prob + scored[0]
                if score > cutoff:
                    candidates.append((score, node, None, token, log_prob))
        return candidates

    def _extended(self, node: Prefix, token: int, log_prob: float) -> tuple[Prefix, Sums]:
        """Return the prefix with one more token, which begins in this frame."""
        before, before_max, before_emission = _source(node, token)
        emission = Emission(self._frame, log_prob, before_emission)
        token_sum = before + log_prob
        sums = (_NEVER, token_sum, token_sum, _NEVER, before_max + log_prob, None, emission)
        return node.child(token), sums

    def commit(self, frame: int) -> None:
        """Make the tokens that the best prefix emitted before `frame` final: drop the prefixes that differ in them."""
        best = self._beam[0]
        emission, newer = _best(best.sums)[1], 0
        while emission is not None and emission.frame >= frame:
            emission, newer = emission.previous, newer + 1
        final = best.without_last(newer)
        dropped = [each for each in self._beam if not each.begins_with(final)]
        if dropped:
            drop(dropped)
            self._beam = [each for each in self._beam if each.sums is not OUTSIDE]

    def set_scorers(self, scorers: ScorerSet) -> None:
        """Score the prefixes of the beam again with other scorers, from the first token; see `ScoredSearch`."""
        before, self._scorers, self._is_scored = self._scorers, scorers, bool(scorers)
        root = Prefix(self._beam[0].path()[0].token, None, scorers.start())
        beam = []
        for node in self._beam:
            moved = root
            for old in node.path()[1:]:
                if old.token not in moved.children:
                    moved.tried[old.token] = scorers.carried(before, old.score, moved.score, old.token)
                    moved.child(old.token)
                    moved.tried.clear()
                moved = moved.children[old.token]
            moved.sums = node.sums
            beam.append(moved)
        drop(self._beam)
        self._beam = sorted(beam, key=lambda node: -(node.sums[2] + node.bonus))

    def stable_length(self) -> int:
        """Return how many leading tokens all prefixes of the beam share: every later prefix has these too."""
        return _common_length([node.tokens() for node in self._beam])

    def hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """Return the `count` best prefixes so far, best first; incomplete hot words count with their share."""
        return [self._hypothesis(node, is_final=False) for node in self._beam[:count]]

    def final_hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """Return the `count` best prefixes if the segment ends here, with the scorers' final scores."""
        if not self._is_scored:
            return self.hypotheses(count)
        found = [self._hypothesis(node, is_final=True) for node in self._beam]
        return sorted(found, key=lambda hypothesis: -hypothesis.score)[:count]

    def _hypothesis(self, node: Prefix, is_final: bool) -> Hypothesis:
        ctc_score, (best, emission) = self._offset + node.sums[2], _best(node.sums)
        frames, confidences = [], []
        while emission is not None:
            frames.append(emission.frame)
            confidences.append(math.exp(emission.log_prob))
            emission = emission.previous
        found = Hypothesis(node.tokens(), ctc_score, ctc_score, tuple(frames[::-1]), tuple(confidences[::-1]))
        found = found._replace(alignment_score=self._offset + best)
        return self._scorers.scored(found, node.score, is_final) if self._is_scored else found


# Score; prefix; its sums, or None for an extension of it; token and log-probability of the extension.
_Candidate = tuple[float, Prefix, "Sums | None", int, float]
_score = operator.itemgetter(0)


def _best(sums: Sums) -> tuple[float, Emission | None]:
    """Return log-probability and last emission of the best alignment; at a tie, of the one that ends in blank."""
    return (sums[3], sums[5]) if sums[3] >= sums[4] else (sums[4], sums[6])


def _source(node: Prefix, token: int) -> tuple[float, float, Emission | None]:
    """Return log sum and maximum of the alignments that `token` can extend, and the last emission of the best one.

    If the prefix already ends in `token`, only alignments that end in blank can be extended.
    """
    sums = node.sums
    if node.token == token:
        return sums[0], sums[3], sums[5]
    best, emission = _best(sums)
    return sums[2], best, emission


def _add(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a + math.log1p(math.exp(b - a)) if b > _NEVER else a


def _common_length(sequences: Sequence[tuple[int, ...]]) -> int:
    """Return how many leading items all sequences share."""
    first, last = min(sequences), max(sequences)  # all others sort between these two, so they share as much
    agree = (mine == other for mine, other in zip(first, last))
    return next((index for index, same in enumerate(agree) if not same), min(len(first), len(last)))
