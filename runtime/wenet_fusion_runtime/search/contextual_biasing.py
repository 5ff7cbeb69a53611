"""Contextual biasing: find hot words in the text of each prefix, and add their boosts to its score."""

from __future__ import annotations

import copy
import functools
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from wenet_fusion_runtime.search.hot_words import HotWord, spell_hot_words
from wenet_fusion_runtime.search.scorers import ScoreField
from wenet_fusion_runtime.search.spelling import BOUNDARY, Spelled, Spelling

# node * _SPAN + symbol is the key of an edge: one number is smaller and faster than a pair.
_SPAN = 0x110000
_ROOT = 0
KNOWN_MOVES = 1 << 16  # moves in the cache of each graph


# Nats of the complete phrases, and the state of each graph. A plain tuple: the search makes one per prefix and token.
HotWordState = tuple[float, Sequence[int]]


class HotWordScorer:
    """Add the boosts of the hot words that a text contains, and a share of the boosts of incomplete ones.

    Args:
        spelling: converts text to symbols of the model's vocabulary.
        hot_words: the phrases.
    Attributes:
        graphs: automata, whose scores are summed; empty if there are no phrases.
        most_gained: see `Scorer`.
    Raises:
        ValueError: hot words are unusable; the message lists all of them.

    >>> from wenet_fusion_runtime.results.vocabulary import Vocabulary
    >>> spelling = Spelling(Vocabulary(["<blank>", "<unk>", "<sos/eos>", "new", "york"], "words"))
    >>> scorer = HotWordScorer(spelling, [HotWord("new york", 2.0)])
    >>> score, state = scorer.advance(scorer.start(), 3)
    >>> score  # half of the phrase, which has 2 tokens of 2 nats
    2.0
    >>> score, state = scorer.advance(state, 4)
    >>> scorer.finish(state)
    4.0
    """

    field: ScoreField = "context_score"

    def __init__(self, spelling: Spelling, hot_words: Sequence[HotWord] = ()) -> None:
        self._spelling = spelling
        self._boosts: dict[Spelled, float] = {}
        self.graphs: tuple[HotWordGraph, ...] = ()
        self.most_gained = np.zeros(len(spelling.parts))
        self._add(hot_words)

    def with_hot_words(self, hot_words: Sequence[HotWord]) -> HotWordScorer:
        """Return a copy with more hot words, whose boosts replace those of equal phrases.

        Raises:
            ValueError: hot words are unusable; the message lists all of them.
        """
        wider = copy.copy(self)
        wider._add(hot_words)
        return wider

    def _add(self, hot_words: Sequence[HotWord]) -> None:
        usable, problems = spell_hot_words(hot_words, self._spelling)
        if problems:
            count = "1 hot word" if len(problems) == 1 else f"{len(problems)} hot words"
            raise ValueError("\n".join([f"{count} cannot be used:", *problems]))
        boosts = {phrase: hot_word.boost for phrase, hot_word in usable.items()}
        # The scores of the graphs are summed, so a phrase of an earlier graph gets only the difference here.
        changes = {phrase: boost - self._boosts.get(phrase, 0.0) for phrase, boost in boosts.items()}
        changes = {phrase: boost for phrase, boost in changes.items() if boost}
        if changes:
            self.graphs = (*self.graphs, HotWordGraph(changes, self._spelling))
            self.most_gained = self.most_gained + self.graphs[-1].most_gained
        self._boosts = self._boosts | boosts

    def start(self) -> HotWordState:
        """Return the state of the empty prefix."""
        return 0.0, [graph.start for graph in self.graphs]

    def advance(self, state: HotWordState, token: int) -> tuple[float, HotWordState]:
        """Return the score after one more token, in nats, and the state."""
        completed, before = state
        if len(before) == 1:  # the usual case, without a loop: beam search spends most of its time here
            node, gained, earned = self.graphs[0].advance(before[0], token)
            completed += gained
            return completed + earned, (completed, (node,))
        share, nodes = 0.0, []
        for graph, node in zip(self.graphs, before):
            node, gained, earned = graph.advance(node, token)
            completed += gained
            share += earned
            nodes.append(node)
        return completed + share, (completed, nodes)

    def finish(self, state: HotWordState) -> float:
        """Return the score of the whole text, in nats: an incomplete phrase counts only if the end completes it."""
        completed, nodes = state
        return sum((graph.finish(node) for graph, node in zip(self.graphs, nodes)), completed)


class Move(NamedTuple):
    """The effect of one token on a text."""

    node: int  # the state after the token
    completed: float  # nats of the phrases that the token completed
    share: float  # nats of the incomplete phrases after the token


class _Edge(NamedTuple):
    parent: int
    symbol: int
    node: int


class HotWordGraph:
    """An Aho-Corasick automaton over the symbols of phrases. Read-only; a state is the number of a node.

    It finds every occurrence of every phrase, overlapping ones too, in a text that arrives token by token. The score of
    a text is the sum of the boosts of these occurrences. An incomplete phrase earns a share in proportion to its
    letters so far, and loses it if the text continues differently; of several incomplete phrases the largest share
    counts, and a negative boost earns no share. Phrases match whole words: in a vocabulary with word boundaries, a
    phrase is complete when the next word begins or the text ends.

    Args:
        boosts: nats per token of each phrase's shortest spelling.
        spelling: converts text to symbols of the model's vocabulary.
    Attributes:
        start: the node of the empty text.
        advance: `advance(node, token)` returns the effect of one more token, a `Move`.
        most_gained: (V,) upper bound of the score that each token can add to a text.
    Source: Aho and Corasick 1975, "Efficient string matching: an aid to bibliographic search".

    >>> from wenet_fusion_runtime.results.vocabulary import Vocabulary
    >>> spelling = Spelling(Vocabulary(["<blank>", "<unk>", "<sos/eos>", "one", "two"], "words"))
    >>> graph = HotWordGraph({spelling.spell("two"): 1.5}, spelling)
    >>> graph.advance(graph.start, 4).completed
    1.5
    """

    def __init__(self, boosts: Mapping[Spelled, float], spelling: Spelling) -> None:
        self._symbols, self._is_marked = spelling.symbols, spelling.marked
        self._next: dict[int, int] = {}  # from node * _SPAN + symbol to the next node
        # One entry per node:
        self._completed = [0.0]  # boosts of the phrases that end there
        self._share = [0.0]  # nats that incomplete phrases have earned
        self._after_boundary = [False]  # whether the last symbol is BOUNDARY
        self._fall_back = [_ROOT]  # the node of the longest proper suffix of this node's text that begins a phrase
        levels: list[list[_Edge]] = []  # by depth
        # The prefixes of a beam are in few states and try the same tokens in each frame, so the cache holds most moves.
        self.advance = functools.lru_cache(KNOWN_MOVES)(self._advance)
        for phrase, boost in boosts.items():
            self._insert(phrase, boost, levels)
        self._link(levels)
        self.most_gained = self._largest_gains(levels)
        self.start = self._step(_ROOT, BOUNDARY) if spelling.marked else _ROOT

    def _insert(self, phrase: Spelled, boost: float, levels: list[list[_Edge]]) -> None:
        letters, seen, node = sum(symbol != BOUNDARY for symbol in phrase.symbols), 0, _ROOT
        earned = boost * phrase.fewest_tokens
        for depth, symbol in enumerate(phrase.symbols, start=1):
            parent, node = node, self._next.get(node * _SPAN + symbol, _ROOT)
            if node == _ROOT:
                node = self._next[parent * _SPAN + symbol] = len(self._completed)
                self._completed.append(0.0)
                self._share.append(0.0)
                self._after_boundary.append(symbol == BOUNDARY)
                self._fall_back.append(_ROOT)
                if depth > len(levels):
                    levels.append([])
                levels[depth - 1].append(_Edge(parent, symbol, node))
            seen += symbol != BOUNDARY
            if depth < len(phrase.symbols):
                self._share[node] = max(self._share[node], earned * seen / letters)
        self._completed[node] += earned

    def _link(self, levels: list[list[_Edge]]) -> None:
        for depth, edges in enumerate(levels):
            for parent, symbol, node in edges:
                below = self._fall_back[node] = self._step(self._fall_back[parent], symbol) if depth else _ROOT
                self._completed[node] += self._completed[below]
                self._share[node] = max(self._share[node], self._share[below])

    def _largest_gains(self, levels: list[list[_Edge]]) -> np.ndarray:
        """Return `most_gained`: for each token, the sum over its symbols of the largest gain on an edge of the symbol.

        A fall-back only lowers the share, so a symbol matched after a fall-back gains no more than on its own edge.
        """
        gains: dict[int, float] = defaultdict(float)  # by symbol, at least 0
        for parent, symbol, node in itertools.chain.from_iterable(levels):
            gain = self._completed[node] + self._share[node] - self._share[parent]
            gains[symbol] = max(gains[symbol], gain)
        return np.array([sum(gains[symbol] for symbol in symbols) for symbols in self._symbols])

    def _step(self, node: int, symbol: int) -> int:
        while True:
            found = self._next.get(node * _SPAN + symbol)
            if found is not None:
                return found
            if node == _ROOT:
                return _ROOT
            node = self._fall_back[node]

    def _advance(self, node: int, token: int) -> Move:
        completed = 0.0
        for symbol in self._symbols[token]:
            if symbol == BOUNDARY and self._after_boundary[node]:
                continue
            node = self._step(node, symbol)
            completed += self._completed[node]
        return Move(node, completed, self._share[node])

    def finish(self, node: int) -> float:
        """Return the boosts of the phrases that the end of the text completes."""
        if not self._is_marked or self._after_boundary[node]:
            return 0.0
        return self._completed[self._step(node, BOUNDARY)]
