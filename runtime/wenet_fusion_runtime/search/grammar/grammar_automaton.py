"""The automaton of a grammar: follow a text symbol by symbol, with one state per text."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

from wenet_fusion_runtime.search.grammar.grammar import Grammar
from wenet_fusion_runtime.search.grammar.program import END, NO_SYMBOL, START, Program
from wenet_fusion_runtime.search.spelling import BOUNDARY, Spelling

MOST_KEPT = 100_000  # states that are kept for the next texts
WORK_PER_STATE = 2  # bounded grammars: the program states in all automaton states may sum to this times `most_states`
_NEVER = -math.inf


class GrammarState:
    """The state after a text that begins a sentence: a set of states of the program, each with a weight.

    Attributes:
        reads: for each symbol that may follow, the program's states after it, each with a natural-log weight: that
            of the best path to the state, minus that of the best path of all (which the start state does not subtract).
        end: the natural-log weight of a text that ends here, on the same scale; -inf: no sentence ends here.
        after_boundary: whether a word may begin here, so that a boundary changes nothing.
        steps: the steps that were computed so far.

    >>> GrammarState({3: [(0.0, 1)]}, end=0.0, after_boundary=False).reads
    {3: [(0.0, 1)]}
    """

    __slots__ = ("after_boundary", "end", "reads", "steps")

    def __init__(self, reads: dict[int, list[tuple[float, int]]], end: float, after_boundary: bool) -> None:
        self.reads, self.end, self.after_boundary = reads, end, after_boundary
        self.steps: dict[int, tuple[float, GrammarState]] = {}


class GrammarAutomaton:
    """Makes the states of a grammar when a text first needs them. Streams in several threads may share it.

    Args:
        grammar: the sentences. If it is bounded, all states are made at once.
        spelling: converts words to symbols.
    Attributes:
        start: the state of the empty text, which may always end.
        symbols: all symbols of the sentences.
    Raises:
        ValueError: see `Program`; or the grammar is bounded and needs too many states.

    >>> from wenet_fusion_runtime.results.vocabulary import Vocabulary
    >>> spelling = Spelling(Vocabulary(["<blank>", "<unk>", "<sos/eos>", "one", "two"], "words"))
    >>> automaton = GrammarAutomaton(Grammar("one two"), spelling)
    >>> weight, state = automaton.step(automaton.start, 3)
    >>> list(state.reads), automaton.step(state, 3) is None
    ([4], True)
    """

    def __init__(self, grammar: Grammar, spelling: Spelling) -> None:
        self._program = Program(grammar, spelling)
        self.symbols = frozenset(self._program.symbols) - {NO_SYMBOL}
        self._known: dict[object, GrammarState] = {}
        self._marked = spelling.marked
        self.start = self._first()
        if grammar.is_bounded:
            self._make_all(grammar)

    def step(self, state: GrammarState, symbol: int) -> tuple[float, GrammarState] | None:
        """Return the change of the natural-log weight (at most 0) by one more symbol, and the state after it.

        Returns:
            None if no sentence continues with this symbol.
        """
        if symbol == BOUNDARY and state.after_boundary:
            return 0.0, state
        found = state.steps.get(symbol)
        if found is None and symbol in state.reads:
            found = state.steps[symbol] = self._state(state.reads[symbol], symbol == BOUNDARY)
        return found

    def _first(self) -> GrammarState:
        # `best` is below 0 if the alternative with the largest weight contains no sentence. The empty text keeps weight
        # 1, so the weights of the first symbols take this loss.
        best, state = self._state([(0.0, START)], self._marked)
        reads = {symbol: [(weight + best, after) for weight, after in ways] for symbol, ways in state.reads.items()}
        return GrammarState(reads, 0.0, state.after_boundary)

    def _state(self, seeds: Iterable[tuple[float, int]], after_boundary: bool) -> tuple[float, GrammarState]:
        """Return the weight of the best path from `seeds`, and the state that stands for all of these states."""
        readers, end = self._readers(seeds)
        best = max(end, max(readers.values(), default=_NEVER))
        relative = [(reader, weight - best) for reader, weight in sorted(readers.items())]
        end -= best
        key = (tuple(relative), end, after_boundary)
        state = self._known.get(key)
        if state is None:
            reads: dict[int, list[tuple[float, int]]] = {}
            for reader, weight in relative:
                reads.setdefault(self._program.symbols[reader], []).append((weight, self._program.following[reader]))
            state = GrammarState(reads, end, after_boundary)
            if len(self._known) >= MOST_KEPT:  # a search keeps the states that it uses
                self._known = {}
                self.start = self._first()
            self._known[key] = state
        return best, state

    def _readers(self, seeds: Iterable[tuple[float, int]]) -> tuple[dict[int, float], float]:
        """Return the states that read a symbol and can be reached without reading, each with its largest weight."""
        program, found, readers = self._program, set[int](), dict[int, float]()
        end = _NEVER
        waiting = [(-weight, state) for weight, state in seeds]
        heapq.heapify(waiting)
        while waiting:  # Dijkstra's algorithm: the weight of a state is final when the state leaves the heap
            loss, state = heapq.heappop(waiting)
            if state in found or state not in program.live:
                continue
            found.add(state)
            if state == END:
                end = -loss
            elif program.symbols[state] != NO_SYMBOL:
                readers[state] = -loss
            else:
                for weight, after in program.branches[state]:
                    if after not in found:
                        heapq.heappush(waiting, (loss - weight, after))
        return readers, end

    def _make_all(self, grammar: Grammar) -> None:
        waiting, seen, work = [self.start], {id(self.start)}, 0
        while waiting:
            state = waiting.pop()
            work += 1 + sum(map(len, state.reads.values()))
            if work > WORK_PER_STATE * grammar.most_states:
                raise ValueError(
                    f"{grammar.source}: the grammar is too large or too ambiguous; leave out words, or alternatives "
                    "that begin with the same words"
                )
            for symbol in state.reads:
                found = self.step(state, symbol)
                if found is not None and id(found[1]) not in seen:
                    seen.add(id(found[1]))
                    waiting.append(found[1])
