"""The scorer that keeps a beam search within a grammar."""

from __future__ import annotations

import math

import numpy as np

from wenet_fusion_runtime.search.grammar.grammar import Grammar
from wenet_fusion_runtime.search.grammar.grammar_automaton import GrammarAutomaton, GrammarState
from wenet_fusion_runtime.search.scorers import ScoreField
from wenet_fusion_runtime.search.spelling import BOUNDARY, Spelling

_NEVER = -math.inf
_NO_GAIN = -1e9  # for tokens that no sentence contains, so that the search prunes them
_State = tuple[float, GrammarState]  # score of the prefix, state of the automaton


class GrammarScorer:
    """Give the score -inf to prefixes with which no sentence begins, and to complete texts that are no sentences.

    The score of other prefixes is the sum of the natural logs of their alternatives' weights, 0 without weights. The
    empty text is always allowed: it stands for silence, or for speech outside of the grammar.

    Args:
        spelling: converts text to symbols of the model's vocabulary.
        grammar: the sentences.
    Attributes:
        most_gained: see `Scorer`.
    Raises:
        ValueError: see `GrammarAutomaton`.

    >>> from wenet_fusion_runtime.results.vocabulary import Vocabulary
    >>> spelling = Spelling(Vocabulary(["<blank>", "<unk>", "<sos/eos>", "one", "two"], "words"))
    >>> scorer = GrammarScorer(spelling, Grammar("one two"))
    >>> score, state = scorer.advance(scorer.start(), 3)
    >>> score, scorer.finish(state), scorer.advance(state, 3)[0]
    (0.0, -inf, -inf)
    """

    field: ScoreField = "grammar_score"

    def __init__(self, spelling: Spelling, grammar: Grammar) -> None:
        self._automaton = GrammarAutomaton(grammar, spelling)
        self._symbols, self._marked = spelling.symbols, spelling.marked
        known = self._automaton.symbols | {BOUNDARY}
        usable = [bool(symbols) and known.issuperset(symbols) for symbols in spelling.symbols]
        self.most_gained: np.ndarray = np.where(usable, 0.0, _NO_GAIN)

    def start(self) -> _State:
        """Return the state of the empty prefix."""
        return 0.0, self._automaton.start

    def advance(self, state: _State, token: int) -> tuple[float, _State]:
        """Return the score after one more token, in nats, and the state."""
        score, node = state
        for symbol in self._symbols[token]:
            found = self._automaton.step(node, symbol)
            if found is None:
                return _NEVER, state
            score, node = score + found[0], found[1]
        if not self._symbols[token]:
            return _NEVER, state
        return score, (score, node)

    def finish(self, state: _State) -> float:
        """Return the score of the whole text, in nats; -inf if it is no sentence."""
        score, node = state
        if self._marked and not node.after_boundary:
            found = self._automaton.step(node, BOUNDARY)
            if found is None:
                return _NEVER
            score, node = score + found[0], found[1]
        return score + node.end
