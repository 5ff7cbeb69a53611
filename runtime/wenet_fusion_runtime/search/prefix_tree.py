"""Token sequences as a tree, with what a beam search knows of each. Knows no search."""

from __future__ import annotations

from typing import NamedTuple

from wenet_fusion_runtime.search.scorers import FusionState


class Emission(NamedTuple):
    """A token on a best alignment, linked to the token before it."""

    frame: int  # the first frame of the token's run
    log_prob: float  # its peak within the run
    previous: Emission | None


# The alignments of one prefix after a frame: log sums of those that end in blank, that end in its last token, and of
# both; the log-probability of the best one of either kind; that one's last emission. A plain tuple, because one is made
# for each prefix and frame, and anything with names costs several times as much.
Sums = tuple[float, float, float, float, float, "Emission | None", "Emission | None"]


class Prefix:
    """A token sequence as a node linked to the sequence without its last token.

    One sequence is one node: a child once created is found again through its parent, also when the parent left the beam
    and came back. Only children that entered the beam are stored, so a search keeps at most beam_size nodes per frame.
    """

    __slots__ = ("bonus", "children", "fused", "parent", "sums", "token", "tried")

    def __init__(self, token: int, parent: Prefix | None, fused: FusionState | None) -> None:
        self.token = token
        self.parent = parent
        self.children: dict[int, Prefix] = {}
        self.sums: Sums | None = None  # None outside of the beam
        self.fused = fused  # what is added to its CTC score, and from where that goes on
        self.bonus = 0.0 if fused is None else fused.bonus
        self.tried: dict[int, FusionState] = {}  # `fused` of sequences with one more token, while this is in the beam

    def child(self, token: int) -> Prefix:
        node = self.children.get(token)
        if node is None:
            node = self.children[token] = Prefix(token, self, self.tried.get(token))
        return node

    def begins_with(self, other: Prefix) -> bool:
        """Whether `other` is this sequence or the beginning of it."""
        node = self
        while node is not other and node.parent is not None:
            node = node.parent
        return node is other
