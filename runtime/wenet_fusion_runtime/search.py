"""CTC searches over the best units of each frame, any number of frames at a time. Knows neither models nor text.

Both searches read frame after frame and nothing else, so any cut of the frames gives the same hypotheses, bit for bit;
offline search is one `advance`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wenet_fusion_runtime.result import Hypothesis
from wenet_fusion_runtime.units import BLANK


class FrameScores(NamedTuple):
    """The K most probable units of T frames; probabilities are natural logs."""

    log_probs: np.ndarray    # (T, K) float32, descending
    ids: np.ndarray          # (T, K) int64
    blank: np.ndarray        # (T,) float32, of blank, which may be missing among the K

    def part(self, start: int, stop: int | None = None) -> FrameScores:
        """Frames start to stop."""
        return FrameScores(self.log_probs[start:stop], self.ids[start:stop], self.blank[start:stop])


class Emission(NamedTuple):
    """A token on a best alignment, linked to the token before it."""

    frame: int                   # the first frame of the token's run
    log_prob: float              # its peak within the run
    previous: Emission | None


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
        for unit, log_prob in zip(scores.ids[:, 0].tolist(), scores.log_probs[:, 0].tolist()):
            self._score += log_prob
            if unit != self._previous:
                if unit != BLANK:
                    self._ids.append(unit)
                    self._frames.append(self._frame)
                    self._peaks.append(log_prob)
            elif unit != BLANK and self._peaks:
                self._peaks[-1] = max(self._peaks[-1], log_prob)
            self._previous = unit
            self._frame += 1

    def hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """The one hypothesis (for `count` >= 1); its scores are the log-probability of its alignment."""
        confidences = tuple(math.exp(peak) for peak in self._peaks)
        best = Hypothesis(tuple(self._ids), self._score, self._score, tuple(self._frames), confidences)
        return [best][:count]


class _Prefix:
    """A token sequence as a node linked to the sequence without its last token.

    One sequence is one node: a child once created is found again through its parent, also when the parent left the beam
    and came back. Only children that entered the beam are stored, so a search keeps at most beam_size nodes per frame.
    """

    __slots__ = ("token", "parent", "children")

    def __init__(self, token: int, parent: _Prefix | None) -> None:
        self.token = token
        self.parent = parent
        self.children: dict[int, _Prefix] = {}

    def child(self, token: int) -> _Prefix:
        node = self.children.get(token)
        if node is None:
            node = self.children[token] = _Prefix(token, self)
        return node


_NO_TOKEN = -1


class PrefixBeamSearch:
    """CTC prefix beam search in log space: sums the alignments of each prefix, keeps the `beam_size` best prefixes.

    Exact within the beam and the units given per frame. Next to each sum it follows the prefix's single best alignment,
    which dates the tokens. Ties are broken by position, so results are reproducible.

    Args:
        beam_size: prefixes kept after each frame.
        start_frame: index of the first frame to come.
        previous: unit that the frame before it emitted. If that unit goes on at once, it is the same token.
    Source: Graves 2012, "Sequence Transduction with Recurrent Neural Networks", section 2.5, in the form of Hannun et
    al. 2014 (arXiv:1408.2873), algorithm 1, without a language model.
    """

    def __init__(self, beam_size: int = 10, start_frame: int = 0, previous: int = BLANK) -> None:
        if beam_size < 1:
            raise ValueError(f"beam_size must be at least 1, found {beam_size}")
        self._beam_size = beam_size
        self._frame = start_frame
        # Slot i of the beam is one prefix: its node, the emissions of its best alignment ending in blank and ending in
        # its last token, the log sums of both kinds of alignments, and the log maxima. Best slot first.
        after_blank = previous == BLANK
        self._nodes = [_Prefix(_NO_TOKEN if after_blank else previous, None)]
        self._blank_emissions: list[Emission | None] = [None]
        self._token_emissions: list[Emission | None] = [None]
        self._blank_sum, self._token_sum = np.array([0.0]), np.array([-np.inf])
        if not after_blank:
            self._blank_sum, self._token_sum = self._token_sum, self._blank_sum
        self._blank_max, self._token_max = self._blank_sum, self._token_sum

    def advance(self, scores: FrameScores) -> None:
        """Decode T more frames."""
        log_probs = np.where(scores.ids == BLANK, -np.inf, scores.log_probs.astype(np.float64))
        for unit_log_probs, units, blank in zip(log_probs, scores.ids, scores.blank.tolist()):
            self._advance_frame(unit_log_probs, units, blank)
            self._frame += 1

    def _advance_frame(self, log_probs: np.ndarray, units: np.ndarray, blank: float) -> None:
        """One frame: B prefixes and K units (blank at -inf) give B + B * K candidates; the best become the new beam."""
        nodes = self._nodes
        last = np.array([node.token for node in nodes])
        repeats = last[:, None] == units                                        # (B, K) is the unit the last token?
        has_repeat = repeats.any(axis=1)
        column = repeats.argmax(axis=1)
        repeat_log_prob = np.where(has_repeat, log_probs[column], -np.inf)      # (B,)

        # Stay on the prefix: by blank, or by its last token going on.
        total = np.logaddexp(self._blank_sum, self._token_sum)
        best = np.maximum(self._blank_max, self._token_max)
        blank_sum, blank_max = total + blank, best + blank
        token_sum, token_max = self._token_sum + repeat_log_prob, self._token_max + repeat_log_prob
        # Extend it by a unit; by its last token again only across a blank.
        extended_sum = np.where(repeats, self._blank_sum[:, None], total[:, None]) + log_probs      # (B, K)
        extended_max = np.where(repeats, self._blank_max[:, None], best[:, None]) + log_probs

        # A prefix in the beam whose parent is there too is also reached by extending the parent: one prefix, one sum.
        slots = {id(node): slot for slot, node in enumerate(nodes)}
        entered_from: dict[int, int] = {}
        for slot, node in enumerate(nodes):
            parent_slot = slots.get(id(node.parent), -1)
            if parent_slot < 0 or not has_repeat[slot]:
                continue
            candidate = parent_slot, column[slot]
            token_sum[slot] = np.logaddexp(token_sum[slot], extended_sum[candidate])
            if extended_max[candidate] > token_max[slot]:
                token_max[slot] = extended_max[candidate]
                entered_from[slot] = parent_slot
            extended_sum[candidate] = -np.inf

        candidates = np.concatenate([np.logaddexp(blank_sum, token_sum), extended_sum.ravel()])
        chosen = np.argsort(-candidates, kind="stable")[: self._beam_size]
        chosen = chosen[np.isfinite(candidates[chosen])]
        self._keep(chosen.tolist(), entered_from, units.tolist(), log_probs.tolist(), repeat_log_prob.tolist())
        none = np.full(extended_sum.size, -np.inf)
        self._blank_sum = np.concatenate([blank_sum, none])[chosen]
        self._blank_max = np.concatenate([blank_max, none])[chosen]
        self._token_sum = np.concatenate([token_sum, extended_sum.ravel()])[chosen]
        self._token_max = np.concatenate([token_max, extended_max.ravel()])[chosen]

    def _keep(
        self, chosen: list[int], entered_from: dict[int, int], units: list[int], log_probs: list[float],
        repeat_log_prob: list[float],
    ) -> None:
        """Nodes and best alignments of the chosen candidates, from those of the frame before."""
        before = self._nodes
        best = [
            self._blank_emissions[slot] if blank >= token else self._token_emissions[slot]
            for slot, (blank, token) in enumerate(zip(self._blank_max.tolist(), self._token_max.tolist()))
        ]
        nodes, blank_emissions, token_emissions = [], [], []
        for candidate in chosen:
            slot, log_prob = candidate, None
            if candidate >= len(before):
                slot, column = divmod(candidate - len(before), len(units))
                parent, node, log_prob = slot, before[slot].child(units[column]), log_probs[column]
            elif candidate in entered_from:
                parent, node, log_prob = entered_from[slot], before[slot], repeat_log_prob[slot]
            if log_prob is None:
                nodes.append(before[slot])
                blank_emissions.append(best[slot])
                token_emissions.append(_raised(self._token_emissions[slot], repeat_log_prob[slot]))
                continue
            # The token begins here. Its own repetition can only follow a blank.
            repeated = before[parent].token == node.token
            previous = self._blank_emissions[parent] if repeated else best[parent]
            nodes.append(node)
            blank_emissions.append(best[slot] if candidate < len(before) else None)
            token_emissions.append(Emission(self._frame, log_prob, previous))
        self._nodes, self._blank_emissions, self._token_emissions = nodes, blank_emissions, token_emissions

    def hypotheses(self, count: int) -> list[Hypothesis]:
        """The `count` best prefixes so far (fewer if the beam holds fewer), best first; score = CTC score."""
        totals = np.logaddexp(self._blank_sum, self._token_sum).tolist()
        return [self._hypothesis(slot, total) for slot, total in enumerate(totals[:count])]

    def _hypothesis(self, slot: int, total: float) -> Hypothesis:
        ids, node = [], self._nodes[slot]
        while node.parent is not None:
            ids.append(node.token)
            node = node.parent
        ends_in_blank = self._blank_max[slot] >= self._token_max[slot]
        emission = (self._blank_emissions if ends_in_blank else self._token_emissions)[slot]
        frames, confidences = [], []
        while emission is not None:
            frames.append(emission.frame)
            confidences.append(math.exp(emission.log_prob))
            emission = emission.previous
        return Hypothesis(tuple(ids[::-1]), total, total, tuple(frames[::-1]), tuple(confidences[::-1]))


def _raised(emission: Emission | None, log_prob: float) -> Emission | None:
    """The emission with its peak raised to a later frame of the same run."""
    if emission is None or log_prob <= emission.log_prob:
        return emission
    return emission._replace(log_prob=log_prob)
