"""Hot words: phrases that a search prefers, and the automaton that finds them. Knows neither scores of frames nor beams."""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.search.spelling import BOUNDARY, Spelled, Spelling

DEFAULT_BOOST = 1.5
LARGEST_BOOST = 100.0


class HotWord(NamedTuple):
    """A phrase of one or more words, written as in the results.

    The boost is in nats for each unit of the phrase's shortest spelling (words, characters or pieces), as in WeNet and
    icefall: what is misheard costs the search so much for each unit, so a long phrase needs more than a short one. The
    whole phrase gets the product, however its text is cut into units. Negative boosts suppress a phrase; 0 does nothing,
    and in a stream's list takes back a boost given at load.
    """

    phrase: str
    boost: float = DEFAULT_BOOST
    source: str = ""  # where it was read, for messages: "FILE:LINE"


class CheckedHotWords(NamedTuple):
    """Hot words that can be used, and what is wrong with each of the others."""

    usable: tuple[HotWord, ...]
    problems: tuple[str, ...]


def check_hot_words(hot_words: Iterable[HotWord], units: Vocabulary) -> CheckedHotWords:
    """Sorts out phrases that are empty or that the units cannot spell, boosts that are no numbers or too large, and
    phrases that come again with another boost. A phrase that comes again with the same boost counts once."""
    spelled, problems = spell_hot_words(hot_words, Spelling(units))
    return CheckedHotWords(tuple(spelled.values()), tuple(problems))


def spell_hot_words(hot_words: Iterable[HotWord], spelling: Spelling) -> tuple[dict[Spelled, HotWord], list[str]]:
    """The usable hot words by their spelling, and what is wrong with each of the others, see `check_hot_words`."""
    usable: dict[Spelled, HotWord] = {}
    problems = []
    for hot_word in hot_words:
        try:
            spelled = spelling.spell(hot_word.phrase)
            _check_boost(hot_word.boost)
            first = usable.setdefault(spelled, hot_word)
            if first.boost != hot_word.boost:
                raise ValueError(f"has boost {hot_word.boost:g} here, {first.boost:g} before")
        except ValueError as error:
            problems.append(f"{hot_word.source}: " * bool(hot_word.source) + f"hot word '{hot_word.phrase}': {error}")
    return usable, problems


def _check_boost(boost: float) -> None:
    if not abs(boost) <= LARGEST_BOOST:  # nor NaN
        raise ValueError(f"has boost {boost:g}, which must be {-LARGEST_BOOST:g} to {LARGEST_BOOST:g}")


def parse_hot_word(text: str, separator: str, source: str = "") -> HotWord:
    """A phrase, or a phrase, `separator` and its boost.

    Raises:
        ValueError: what follows the last separator is no number.
    """
    phrase, found, boost = text.rpartition(separator)
    if not found:
        return HotWord(text.strip(), source=source)
    try:
        return HotWord(phrase.strip(), float(boost), source)
    except ValueError:
        raise ValueError(
            f"{source}: " * bool(source) + f"hot word '{phrase.strip()}' has boost '{boost.strip()}', "
            "which is no number"
        ) from None


def read_hot_words(path: str | Path) -> CheckedHotWords:
    """Reads a list: a phrase in each line, if need be followed by a tab and its boost; lines that begin with # and empty
    lines mean nothing. What comes out is not yet checked against a model's units.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 at byte {error.start}; save the list of hot words as UTF-8") from None
    hot_words, problems = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            try:
                hot_words.append(parse_hot_word(line, "\t", f"{path}:{number}"))
            except ValueError as error:
                problems.append(str(error))
    return CheckedHotWords(tuple(hot_words), tuple(problems))


# A node and a symbol as one number, which is smaller and faster as a key than a pair.
_SPAN = 0x110000
_ROOT = 0
KNOWN_MOVES = 1 << 16


class _Edge(NamedTuple):
    parent: int
    symbol: int
    node: int


class Move(NamedTuple):
    """What a unit does to a text."""

    node: int  # the state after it
    completed: float  # boosts of the phrases that it completed
    share: float  # what phrases that are under way have earned


class HotWordGraph:
    """An Aho-Corasick automaton over the symbols of phrases: it finds every occurrence of every phrase in a text that
    comes unit by unit, overlapping ones too. Read-only; a state is the number of a node.

    A text's score is the sum of the boosts of the phrases that occur in it. Before a phrase is complete it has earned
    the share of its letters that are there (of several that are under way the largest share; none of a negative boost),
    which is lost as soon as the text goes on differently. A phrase counts only as whole words, so where there
    are boundaries it is complete when the next word begins or the text ends.

    Args:
        boosts: in nats for each unit of each phrase's shortest spelling.
        spelling: of the model's units.
    Source: Aho and Corasick 1975, "Efficient string matching: an aid to bibliographic search".
    """

    def __init__(self, boosts: Mapping[Spelled, float], spelling: Spelling) -> None:
        self._symbols, self._is_marked = spelling.symbols, spelling.marked
        self._next: dict[int, int] = {}  # of node * _SPAN + symbol
        self._completed = [0.0]  # of each node: boosts of the phrases that end there
        self._share = [0.0]  # of each node: what phrases that are under way have earned
        self._after_boundary = [False]  # of each node: whether its last symbol is BOUNDARY
        self._fall_back = [_ROOT]  # of each node: the longest end of its text that begins a phrase too
        levels: list[list[_Edge]] = []  # by depth
        # The prefixes of a beam stand in few states and try the same units frame after frame: most moves are known.
        self._moves = functools.lru_cache(KNOWN_MOVES)(self._advance)
        for phrase, boost in boosts.items():
            self._insert(phrase, boost, levels)
        self._link(levels)
        self.most_gained = self._largest_gains(levels)
        self.start = self._step(_ROOT, BOUNDARY) if spelling.marked else _ROOT

    def _insert(self, phrase: Spelled, boost: float, levels: list[list[_Edge]]) -> None:
        letters, seen, node = sum(symbol != BOUNDARY for symbol in phrase.symbols), 0, _ROOT
        earned = boost * phrase.fewest_units
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
        """(V,) at least what a unit can add to any text's score.

        Falling back loses no share that an edge from there could gain, so no symbol gains more than on its best edge.
        """
        gains: dict[int, float] = defaultdict(float)  # of symbols, at least 0
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

    def _advance(self, node: int, unit: int) -> Move:
        completed = 0.0
        for symbol in self._symbols[unit]:
            if symbol == BOUNDARY and self._after_boundary[node]:
                continue
            node = self._step(node, symbol)
            completed += self._completed[node]
        return Move(node, completed, self._share[node])

    def advance(self, node: int, unit: int) -> Move:
        """What one more unit does."""
        return self._moves(node, unit)

    def finish(self, node: int) -> float:
        """The boosts of the phrases that the end of the text completes."""
        return (
            self._completed[self._step(node, BOUNDARY)] if self._is_marked and not self._after_boundary[node] else 0.0
        )
