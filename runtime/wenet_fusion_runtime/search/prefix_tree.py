"""A tree of token sequences, with the alignment scores that a beam search keeps for each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from wenet_fusion_runtime.search.scorer_set import UNSCORED, PrefixScore


class Emission(NamedTuple):
    """A token on a best alignment, linked to the token before it."""

    frame: int  # first of the consecutive frames of the token
    log_prob: float  # the token's highest log-probability in these frames
    previous: Emission | None


# The alignments of one prefix after a frame: log sums of those that end in blank, of those that end in its last token,
# and of both; log-probability of the best one that ends in blank, and of the best one that ends in the token; the last
# emission of each of these two. A plain tuple, because the search makes one per prefix and frame and named fields would
# take several times as long.
Sums = tuple[float, float, float, float, float, "Emission | None", "Emission | None"]
OUTSIDE: Sums = (-math.inf, -math.inf, -math.inf, -math.inf, -math.inf, None, None)  # the prefix is not in the beam


class Prefix:
    """A token sequence as a node linked to the sequence without its last token.

    Each sequence has one node: a parent keeps the children that are in the beam or that begin a sequence in it. No
    others are kept: parents and children refer to each other, so only Python's garbage collector could free them, and
    it stops the whole process while it looks at every node of every stream.

    Args:
        token: the last token.
        parent: the sequence without its last token; None for the root.
        score: score and states of the scorers.
    Attributes:
        sums: the alignments of the sequence; OUTSIDE unless it is in the beam.
        bonus: nats that the scorers add.
        tried: scores of sequences with one more token, while this one is in the beam.

    >>> root = Prefix(-1, None)
    >>> root.child(3).child(5).tokens()
    (3, 5)
    >>> root.child(3) is root.child(3)
    True
    """

    __slots__ = ("bonus", "children", "parent", "score", "sums", "token", "tried")

    def __init__(self, token: int, parent: Prefix | None, score: PrefixScore = UNSCORED) -> None:
        self.token = token
        self.parent = parent
        self.children: dict[int, Prefix] = {}
        self.sums = OUTSIDE
        self.score = score
        self.bonus = score[0]
        self.tried: dict[int, PrefixScore] = {}

    def child(self, token: int) -> Prefix:
        """Return the node of the sequence with one more token."""
        node = self.children.get(token)
        if node is None:
            node = self.children[token] = Prefix(token, self, self.tried.get(token, UNSCORED))
        return node

    def leave(self) -> None:
        """Forget what is needed in the beam only; leave the tree too if no sequence in the beam begins with this one.

        Call it when the sequence is outside the beam; parents that are kept only for its sake go too.
        """
        self.tried.clear()
        node, parent = self, self.parent
        while parent is not None and not node.children and node.sums is OUTSIDE:
            parent.children.pop(node.token, None)  # None: it was removed with one of its children
            node, parent = parent, parent.parent

    def tokens(self) -> tuple[int, ...]:
        """Return the tokens of the sequence."""
        ids, node = [], self
        while node.parent is not None:
            ids.append(node.token)
            node = node.parent
        return tuple(ids[::-1])

    def path(self) -> list[Prefix]:
        """Return the nodes from the root to this one."""
        nodes, node = [self], self
        while node.parent is not None:
            node = node.parent
            nodes.append(node)
        return nodes[::-1]

    def without_last(self, count: int) -> Prefix:
        """Return the node of the sequence without its last `count` tokens."""
        node = self
        while count and node.parent is not None:
            node, count = node.parent, count - 1
        return node

    def begins_with(self, other: Prefix) -> bool:
        """Return whether this sequence begins with `other`, or is `other`."""
        node = self
        while node is not other and node.parent is not None:
            node = node.parent
        return node is other


def drop(nodes: Sequence[Prefix]) -> None:
    """Take prefixes out of the beam."""
    for node in nodes:
        node.sums = OUTSIDE
    for node in nodes:
        node.leave()
