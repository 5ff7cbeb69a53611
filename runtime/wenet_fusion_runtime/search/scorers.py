"""What a search adds to the CTC score of a prefix. Knows neither frames nor beams, nor where a language model comes from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.search.hot_words import HotWord, HotWordGraph, spell_hot_words
from wenet_fusion_runtime.search.spelling import Spelled, Spelling

_SAMPLED_WORDS = 1000  # of a language model, to see whether the units can write them


class LanguageModel(Protocol):
    """Probabilities of words, one after the other. Read-only and shared by all streams and threads.

    States are opaque values: hashable or not, but never changed by a call. The search keeps one for each prefix and
    asks once for each word of each prefix, when the word is complete; hypotheses that share words share the call.

    Words are the text between spaces, as the results show it: no marks of word starts, no spaces, the case of the
    model's units, `<unk>` where the acoustic model wrote it. If the units are written without spaces (no unit holds
    U+2581), each unit is a word.

    Attributes:
        name: what messages call the model, such as its file.
        words: all words that it knows; empty if it cannot list them.
    """

    name: str
    words: Sequence[str]

    def start(self) -> Any:
        """The state before the first word of a segment."""
        ...

    def advance(self, state: Any, word: str) -> tuple[float, Any]:
        """Natural-log probability of `word` after `state`, and the state after it.

        A word that the model does not know has the probability of its `<unk>`. Finite, at most 0.
        """
        ...

    def finish(self, state: Any) -> float:
        """Natural-log probability that the text ends after `state`; finite, at most 0."""
        ...


class FusionState:
    """What is added to the CTC score of one prefix, and from where that goes on. Never changed once made.

    Attributes:
        completed: boosts of the hot words that are complete.
        context_score: of hot words, the share of unfinished phrases included.
        lm_score: weighted log-probabilities of the complete words, and the bonus of each.
        length_score: minus the length penalty of each token.
        bonus: the sum of the three scores.
    """

    __slots__ = ("bonus", "completed", "context_score", "contexts", "length_score", "lm_score", "words")

    def __init__(
        self,
        completed: float,
        share: float,
        lm_score: float,
        length_score: float,
        contexts: tuple[int, ...] = (),
        words: _Words | None = None,
    ) -> None:
        self.completed, self.context_score = completed, completed + share
        self.lm_score, self.length_score = lm_score, length_score
        self.bonus = self.context_score + lm_score + length_score
        self.contexts, self.words = contexts, words


class Fusion:
    """Hot words, a language model and a length penalty, made ready for one vocabulary. Read-only, shared by streams.

    Args:
        units: the vocabulary.
        hot_words: phrases that are preferred, or not wanted.
        language_model: scores words; None: nothing does.
        lm_weight: of its log-probabilities, not negative.
        word_bonus: nats for each word that the language model scores.
        length_penalty: nats taken for each token; negative favours longer texts.
    Attributes:
        most_gained: (V,) at least what a unit can add to the score of any prefix.
    Raises:
        ValueError: hot words that cannot be used, all of them; the units can write no word of the language model.
    """

    def __init__(
        self,
        units: Vocabulary,
        hot_words: Sequence[HotWord] = (),
        language_model: LanguageModel | None = None,
        lm_weight: float = 0.0,
        word_bonus: float = 0.0,
        length_penalty: float = 0.0,
    ) -> None:
        self._spelling = Spelling(units)
        if language_model is not None:
            _check_words(language_model, self._spelling)
        self._scorer = None if language_model is None else _WordScorer(language_model, lm_weight, word_bonus)
        self._length_penalty = length_penalty
        self._boosts: dict[Spelled, float] = {}
        self._graphs: tuple[HotWordGraph, ...] = ()
        self._add(hot_words)

    @property
    def adds_something(self) -> bool:
        """Whether any score can differ from what CTC says."""
        return bool(self._graphs or self._scorer or self._length_penalty)

    def with_hot_words(self, hot_words: Sequence[HotWord]) -> Fusion:
        """The same with more hot words. A phrase that is already among them gets its boost from `hot_words`.

        Raises:
            ValueError: hot words that cannot be used, all of them.
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
        # Scores of graphs are added, so a phrase of an earlier graph gets the difference here.
        changes = {phrase: boost - self._boosts.get(phrase, 0.0) for phrase, boost in boosts.items()}
        changes = {phrase: boost for phrase, boost in changes.items() if boost}
        if changes:
            self._graphs = (*self._graphs, HotWordGraph(changes, self._spelling))
        self._boosts = self._boosts | boosts
        self.most_gained = self._most_gained()

    def _most_gained(self) -> np.ndarray:
        gained = np.full(len(self._spelling.parts), max(0.0, -self._length_penalty))
        for graph in self._graphs:
            gained += graph.most_gained
        if self._scorer is not None and self._scorer.bonus > 0:
            # A part completes the word before it.
            gained += [self._scorer.bonus * (len(parts) - 1) for parts in self._spelling.parts]
        return gained

    def start(self) -> FusionState:
        """Of no tokens."""
        words = None if self._scorer is None else self._scorer.start()
        return FusionState(0.0, 0.0, 0.0, 0.0, tuple(graph.start for graph in self._graphs), words)

    def advance(self, state: FusionState, unit: int) -> FusionState:
        """Of one more token."""
        completed, share, contexts = state.completed, 0.0, []
        for graph, context in zip(self._graphs, state.contexts):
            move = graph.advance(context, unit)
            completed += move.completed
            share += move.share
            contexts.append(move.node)
        words, lm_score = state.words, 0.0
        if words is not None:
            words = words.followed_by(self._spelling.parts[unit])
            lm_score = words.score
        length_score = state.length_score - self._length_penalty
        return FusionState(completed, share, lm_score, length_score, tuple(contexts), words)

    def finish(self, state: FusionState) -> FusionState:
        """Of the whole text, which ends here: nothing goes on from it."""
        completed = sum((graph.finish(at) for graph, at in zip(self._graphs, state.contexts)), state.completed)
        lm_score = 0.0 if state.words is None else state.words.final_score()
        return FusionState(completed, 0.0, lm_score, state.length_score)


def _check_words(model: LanguageModel, spelling: Spelling) -> None:
    """Raises ValueError if the units can write none of a sample of the model's words: that is another language, or
    another case of letters, and would be worse than no model."""
    problem = None
    for word in model.words[:: max(1, len(model.words) // _SAMPLED_WORDS)]:
        try:
            if spelling.spell(word).fewest_units == 1 or spelling.marked:
                return
            problem = problem or f"'{word}' is several units, each of which is a word to the search"
        except ValueError as error:
            problem = problem or f"'{word}': {error}"
    if problem:
        raise ValueError(
            f"the units can write no word of the language model {model.name} ({problem}); train it on text "
            "written like the transcripts of the acoustic model"
        )


class _WordScorer(NamedTuple):
    model: LanguageModel
    weight: float
    bonus: float  # for each word

    def start(self) -> _Words:
        return _Words(self, self.model.start(), 0.0, "")


class _Words:
    """The words of a prefix: those that are complete, scored, and the letters of the one that is not."""

    __slots__ = ("_closed", "_open", "_scorer", "_state", "score")

    def __init__(self, scorer: _WordScorer, state: Any, score: float, open_word: str) -> None:
        self.score = score
        self._scorer, self._state, self._open = scorer, state, open_word
        self._closed: _Words | None = None  # once asked for, kept for all that go on from here

    def followed_by(self, parts: Sequence[str]) -> _Words:
        """With more text: the first part goes on with the open word, each of the others begins a word."""
        first, *others = parts
        words = self._with_letters(first)
        for part in others:
            words = words._complete()._with_letters(part)
        return words

    def final_score(self) -> float:
        """Of all words, the open one too, and the end."""
        words = self._complete()
        return words.score + self._scorer.weight * self._scorer.model.finish(words._state)

    def _with_letters(self, letters: str) -> _Words:
        return _Words(self._scorer, self._state, self.score, self._open + letters) if letters else self

    def _complete(self) -> _Words:
        if not self._open:
            return self
        if self._closed is None:
            scorer = self._scorer
            log_prob, state = scorer.model.advance(self._state, self._open)
            self._closed = _Words(scorer, state, self.score + scorer.weight * log_prob + scorer.bonus, "")
        return self._closed
