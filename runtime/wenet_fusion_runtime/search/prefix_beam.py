"""CTC prefix beam search over the best units of each frame. Knows neither models nor text.

It reads frame after frame and nothing else, so any cut of the frames gives the same hypotheses, bit for bit.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np

from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.results.vocabulary import BLANK
from wenet_fusion_runtime.search.greedy import FrameScores
from wenet_fusion_runtime.search.prefix_tree import Emission, Prefix, Sums
from wenet_fusion_runtime.search.scorers import Fusion, FusionState

_NEVER = -math.inf
_NO_TOKEN = -1


class PrefixBeamSearch:
    """CTC prefix beam search in log space: sums the alignments of each prefix, keeps the `beam_size` best prefixes.

    Exact within the beam and the units considered. Next to each sum it follows the prefix's single best alignment,
    which dates the tokens. Ties are broken by position, so results are reproducible. A frame in which only blank is
    considered changes no order: it costs one addition.

    Args:
        beam_size: prefixes kept after each frame.
        start_frame: index of the first frame to come.
        previous: unit that the frame before it emitted. If that unit goes on at once, it is the same token.
        fusion: what is added to the CTC score of each prefix; None adds nothing and costs nothing.
        token_threshold: a unit that is less probable than the frame's best by more than so many nats is not considered
            in the frame, unless `fusion` may lift it over that. Blank always is.
        blank_skip_threshold: in frames where blank is more probable than this no other unit is considered.
    Source: Graves 2012, "Sequence Transduction with Recurrent Neural Networks", section 2.5, in the form of Hannun et
    al. 2014 (arXiv:1408.2873), algorithm 1.
    """

    def __init__(
        self,
        beam_size: int = 10,
        start_frame: int = 0,
        previous: int = BLANK,
        fusion: Fusion | None = None,
        token_threshold: float = math.inf,
        blank_skip_threshold: float = 1.0,
    ) -> None:
        if beam_size < 1:
            raise ValueError(f"beam_size must be at least 1, found {beam_size}")
        self._beam_size = beam_size
        self._frame = start_frame
        self._fusion = fusion
        self._token_threshold = token_threshold
        self._blank_skip = math.log(blank_skip_threshold)
        self._offset = 0.0  # to be added to all sums: log-probability of the frames in which only blank was considered
        # Whether no alignment ends in a token. Then one more blank changes nothing but the offset.
        self._in_blank = previous == BLANK
        root = Prefix(_NO_TOKEN if self._in_blank else previous, None, None if fusion is None else fusion.start())
        root.sums = (0.0, _NEVER, 0.0, 0.0, _NEVER, None, None)
        if not self._in_blank:
            root.sums = (_NEVER, 0.0, 0.0, _NEVER, 0.0, None, None)
        self._beam = [root]  # best first

    def advance(self, scores: FrameScores) -> None:
        """Decode T more frames."""
        alive, first = self._considered(scores), 0
        units = list(zip(scores.ids[alive].tolist(), scores.log_probs[alive].tolist()))
        for blank, end in zip(scores.blank.tolist(), alive.sum(axis=1).cumsum().tolist()):
            if end > first:
                self._advance_frame(blank, units[first:end])
            else:
                self._advance_blank(blank)
            self._frame += 1
            first = end

    def _considered(self, scores: FrameScores) -> np.ndarray:
        """(T, K) bool: which units but blank are considered."""
        limit = (np.maximum(scores.log_probs[:, 0], scores.blank) - self._token_threshold)[:, None]
        if self._fusion is not None:
            limit = limit - self._fusion.most_gained[scores.ids]
        alive = (scores.log_probs > limit) & (scores.ids != BLANK)
        if self._blank_skip < 0.0:
            alive &= scores.blank[:, None] <= self._blank_skip
        return alive

    def _advance_blank(self, blank: float) -> None:
        """One frame of blank: B prefixes stay, in their order."""
        self._offset += blank
        if not self._in_blank:
            for node in self._beam:
                best, emission = _best(node.sums)
                node.sums = (node.sums[2], _NEVER, node.sums[2], best, _NEVER, emission, None)
            self._in_blank = True

    def _advance_frame(self, blank: float, units: Sequence[tuple[int, float]]) -> None:
        """One frame: B prefixes stay or are extended by one of `units`, given with log-probabilities; the best go on."""
        candidates = self._stays(blank, dict(units))
        cutoff = candidates[-1][0] if len(candidates) >= self._beam_size else _NEVER
        extend = self._extensions if self._fusion is None else self._fused_extensions
        extensions = extend(units, cutoff)
        if extensions:
            candidates += extensions
            candidates.sort(key=_score, reverse=True)
        chosen = [
            (node, sums) if sums is not None else self._extended(node, unit, log_prob)
            for score, node, sums, unit, log_prob in candidates[: self._beam_size]
            if score > _NEVER
        ]
        before, self._beam = self._beam, [node for node, _ in chosen]
        for node in before:
            node.sums = None
        for node, sums in chosen:
            node.sums = sums
        if self._fusion is not None:
            for node in before:
                if node.sums is None:
                    node.tried.clear()
        self._in_blank = False

    def _stays(self, blank: float, log_probs: dict[int, float]) -> list[_Candidate]:
        """Every prefix of the beam after one more frame without another token, best first."""
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
            if parent is not None and parent.sums is not None:
                # The parent is in the beam too, and reaches this prefix by the token: one prefix, one sum.
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

    def _extensions(self, units: Sequence[tuple[int, float]], cutoff: float) -> list[_Candidate]:
        """Every prefix that is not in the beam, is one of it with one more token, and has a score above `cutoff`."""
        candidates: list[_Candidate] = []
        for unit, log_prob in units:
            for node in self._beam:
                score = node.sums[2] + log_prob
                if score <= cutoff:
                    break  # so are all that follow: the beam is in order
                child = node.children.get(unit)
                if child is not None and child.sums is not None:
                    continue
                if node.token == unit:
                    score = node.sums[0] + log_prob
                    if score <= cutoff:
                        continue
                candidates.append((score, node, None, unit, log_prob))
        return candidates

    def _fused_extensions(self, units: Sequence[tuple[int, float]], cutoff: float) -> list[_Candidate]:
        """The same, scored with what `fusion` adds."""
        candidates: list[_Candidate] = []
        fusion = self._fusion
        for unit, log_prob in units:
            reach = log_prob + float(fusion.most_gained[unit])
            for node in self._beam:
                if node.sums[2] + node.bonus + reach <= cutoff:
                    break
                child = node.children.get(unit)
                if child is not None and child.sums is not None:
                    continue
                fused = child.fused if child is not None else node.tried.get(unit)
                if fused is None:
                    fused = node.tried[unit] = fusion.advance(node.fused, unit)
                score = node.sums[0 if node.token == unit else 2] + log_prob + fused.bonus
                if score > cutoff:
                    candidates.append((score, node, None, unit, log_prob))
        return candidates

    def _extended(self, node: Prefix, unit: int, log_prob: float) -> tuple[Prefix, Sums]:
        """The prefix with one more token, which begins in this frame."""
        before, before_max, before_emission = _source(node, unit)
        emission = Emission(self._frame, log_prob, before_emission)
        token_sum = before + log_prob
        sums = (_NEVER, token_sum, token_sum, _NEVER, before_max + log_prob, None, emission)
        return node.child(unit), sums

    def commit(self, frame: int) -> None:
        """Decide for good the tokens that the best prefix emitted before `frame`: other prefixes leave the beam."""
        best = self._beam[0]
        node, emission = best, _best(best.sums)[1]
        while emission is not None and emission.frame >= frame:
            node, emission = node.parent, emission.previous
        dropped = [each for each in self._beam if not each.begins_with(node)]
        if dropped:
            for each in dropped:
                each.sums = None
                each.tried.clear()
            self._beam = [each for each in self._beam if each.sums is not None]

    def hypotheses(self, count: int) -> list[Hypothesis]:
        """The `count` best prefixes so far (fewer if the beam holds fewer), best first. `score` holds all that ranks
        them, the share of unfinished phrases included."""
        return [self._hypothesis(node, node.fused) for node in self._beam[:count]]

    def final_hypotheses(self, count: int) -> list[Hypothesis]:
        """The `count` best token sequences if these were all frames: phrases that were not completed count no more, and
        the language model has scored the last word and the end."""
        if self._fusion is None:
            return self.hypotheses(count)
        found = [self._hypothesis(node, self._fusion.finish(node.fused)) for node in self._beam]
        return sorted(found, key=lambda hypothesis: -hypothesis.score)[:count]

    def _hypothesis(self, node: Prefix, fused: FusionState | None) -> Hypothesis:
        ctc_score = self._offset + node.sums[2]
        emission = _best(node.sums)[1]
        frames, confidences, ids = [], [], []
        while emission is not None:
            frames.append(emission.frame)
            confidences.append(math.exp(emission.log_prob))
            emission = emission.previous
        while node.parent is not None:
            ids.append(node.token)
            node = node.parent
        found = Hypothesis(tuple(ids[::-1]), ctc_score, ctc_score, tuple(frames[::-1]), tuple(confidences[::-1]))
        if fused is None:
            return found
        return found._replace(
            score=ctc_score + fused.bonus,
            context_score=fused.context_score,
            lm_score=fused.lm_score,
            length_score=fused.length_score,
        )


# Score, prefix, its sums or None for an extension of it, and the extension's unit and log-probability.
_Candidate = tuple[float, Prefix, "Sums | None", int, float]
_score = operator.itemgetter(0)


def _best(sums: Sums) -> tuple[float, Emission | None]:
    """Log-probability and last emission of the best alignment; of two equal ones that which ends in blank."""
    return (sums[3], sums[5]) if sums[3] >= sums[4] else (sums[4], sums[6])


def _source(node: Prefix, unit: int) -> tuple[float, float, Emission | None]:
    """Log sum and maximum of the alignments that go on with another `unit`, and the best one's last emission.

    After the same unit they must end in blank.
    """
    sums = node.sums
    if node.token == unit:
        return sums[0], sums[3], sums[5]
    best, emission = _best(sums)
    return sums[2], best, emission


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))"""
    if a < b:
        a, b = b, a
    return a + math.log1p(math.exp(b - a)) if b > _NEVER else a
