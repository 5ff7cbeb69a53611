"""Compile a grammar into a program: a nondeterministic automaton that reads the letters of its sentences."""

from __future__ import annotations

from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.search.grammar.expressions import Choice, Expression, Reference, Repeat, Series, Words
from wenet_fusion_runtime.search.grammar.grammar import Grammar
from wenet_fusion_runtime.search.spelling import MAX_PHRASE, Spelling

MOST_DEPTH = 150  # rules and groups within each other
START, END = 0, 1  # the states before and after a sentence
NO_SYMBOL = -1


class Program:
    """A nondeterministic automaton over the symbols of `Spelling`, so every spelling in tokens is recognised.

    A state either reads one symbol and continues with the next state, or continues with any of several states without
    reading. In a vocabulary with boundaries each word is read with the boundary after it.

    Args:
        grammar: the sentences.
        spelling: converts words to symbols.
    Attributes:
        symbols: the symbol that each state reads; NO_SYMBOL: none.
        following: the state after each state that reads a symbol.
        branches: for each other state, pairs of a natural-log weight (at most 0) and a next state.
        live: the states from which END can be reached.
    Raises:
        ValueError: the vocabulary cannot spell a word, or the grammar is too large or has no sentence with words.

    >>> from wenet_fusion_runtime.results.vocabulary import Vocabulary
    >>> spelling = Spelling(Vocabulary(["<blank>", "<unk>", "<sos/eos>", "one", "two"], "words"))
    >>> Program(Grammar("one two"), spelling).symbols
    [-1, -1, -1, 3, 4]
    """

    def __init__(self, grammar: Grammar, spelling: Spelling) -> None:
        self._grammar, self._spelling = grammar, spelling
        self._spelled: dict[str, tuple[int, ...]] = {}
        self._unusable: dict[str, str] = {}  # a message for each word without a spelling
        self._size = 0
        self.symbols = [NO_SYMBOL, NO_SYMBOL]
        self.following = [END, END]
        self.branches: dict[int, list[tuple[float, int]]] = {START: [], END: []}
        first = self._new_branch()  # START leads only to this state, where all public rules begin
        self._jump(START, first)
        for name in grammar.rules.public:
            self._add(grammar.rules.rules[name], first, END, 0)
        if self._unusable:
            count = len(self._unusable)
            rest = f" ({count - 1} other words cannot be spelled either)" if count > 1 else ""
            raise ValueError(next(iter(self._unusable.values())) + rest)
        self.live = self._reaching_end()
        if not any(self.symbols[state] != NO_SYMBOL for state in self._reachable() & self.live):
            raise ValueError(f"{grammar.source}: the grammar has no sentence with words; add words to its public rules")

    def _add(self, expression: Expression, begin: int, end: int, depth: int) -> None:
        """Add a part between two states. No new path leads into `begin` or out of `end`."""
        self._count(1)
        if depth > MOST_DEPTH:
            raise ValueError(
                f"{self._grammar.source}: rules and groups are nested more than {MOST_DEPTH} deep; simplify them"
            )
        if isinstance(expression, Words):
            self._add_words(expression, begin, end)
        elif isinstance(expression, Reference):
            self._add(self._grammar.rules.rules[expression.rule], begin, end, depth + 1)
        elif isinstance(expression, Series):
            for part in expression.parts:
                after = self._new_branch()
                self._add(part, begin, after, depth + 1)
                begin = after
            self._jump(begin, end)
        elif isinstance(expression, Choice):
            for weight, option in expression.options:
                first = begin
                if weight:
                    first = self._new_branch()
                    self._jump(begin, first, weight)
                self._add(option, first, end, depth + 1)
        elif isinstance(expression, Repeat):
            first, last = self._new_branch(), self._new_branch()
            self._jump(begin, first)
            self._add(expression.part, first, last, depth + 1)
            self._jump(last, end)
            if expression.may_repeat:
                self._jump(last, first)
            if expression.may_skip:
                self._jump(begin, end)

    def _add_words(self, phrase: Words, begin: int, end: int) -> None:
        symbols = [symbol for word in phrase.words for symbol in self._spell(word, phrase.line)]
        self._count(len(symbols))
        if not symbols:
            self._jump(begin, end)
            return
        self._jump(begin, len(self.symbols))
        self.symbols += symbols
        self.following += range(len(self.following) + 1, len(self.following) + len(symbols) + 1)
        self.following[-1] = end

    def _spell(self, word: str, line: int) -> tuple[int, ...]:
        symbols = self._spelled.get(word)
        if symbols is None:
            try:
                if len(word) > MAX_PHRASE:
                    raise ValueError(f"it has {len(word)} characters, at most {MAX_PHRASE} are allowed")
                symbols = self._spelling.spell(word).symbols[int(self._spelling.marked) :]
            except ValueError as error:
                symbols, shown = (), visible(word, SHOWN)
                self._unusable[word] = f"{self._grammar.source}:{line}: the model cannot spell '{shown}': {error}"
            self._spelled[word] = symbols
        return symbols

    def _new_branch(self) -> int:
        self._count(1)
        self.symbols.append(NO_SYMBOL)
        self.following.append(END)
        self.branches[len(self.symbols) - 1] = []
        return len(self.symbols) - 1

    def _jump(self, state: int, target: int, weight: float = 0.0) -> None:
        self.branches[state].append((weight, target))

    def _count(self, count: int) -> None:
        self._size += count
        if self._size > self._grammar.most_states:
            raise ValueError(
                f"{self._grammar.source}: the grammar is too large: with every rule written out it has more than "
                f"{self._grammar.most_states} states; leave out words, or refer to large rules less often"
            )

    def _reachable(self) -> set[int]:
        return _closure(START, [self._after(state) for state in range(len(self.symbols))])

    def _reaching_end(self) -> set[int]:
        before: list[list[int]] = [[] for _ in self.symbols]
        for state in range(len(self.symbols)):
            for after in self._after(state):
                before[after].append(state)
        return _closure(END, before)

    def _after(self, state: int) -> list[int]:
        if self.symbols[state] != NO_SYMBOL:
            return [self.following[state]]
        return [target for _, target in self.branches[state]]


def _closure(first: int, neighbours: list[list[int]]) -> set[int]:
    found, waiting = {first}, [first]
    while waiting:
        for state in neighbours[waiting.pop()]:
            if state not in found:
                found.add(state)
                waiting.append(state)
    return found
