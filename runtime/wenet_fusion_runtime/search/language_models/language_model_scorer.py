"""Shallow fusion: add a language model's log-probabilities to the CTC score, word by word."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from wenet_fusion_runtime.search.language_models.language_model import LanguageModel
from wenet_fusion_runtime.search.language_models.lexicon import Lexicon, lexicon_of
from wenet_fusion_runtime.search.scorers import ScoreField
from wenet_fusion_runtime.search.spelling import Spelling

_SAMPLED_WORDS = 1000  # words of a language model that are checked against the vocabulary


class LanguageModelScorer:
    """Score each word once it is complete; `finish` scores the last word and the end of the text.

    Args:
        model: gives the probability of each word.
        spelling: splits tokens of the acoustic model into words.
        weight: weight of the log-probabilities.
        word_bonus: nats added per word.
        unknown_word_penalty: nats subtracted once for each word that the model does not know: as soon as no word of
            the model begins with the letters so far, at the latest when the word ends.
    Raises:
        ValueError: the vocabulary can spell none of a sample of the model's words, because the model has another
            language or writes letters in another case; or there is a penalty, and the model cannot list its words.
    Source: Gulcehre et al. 2015, "On using monolingual corpora in neural machine translation" (arXiv:1503.03535).

    >>> from wenet_fusion_runtime.results.vocabulary import Vocabulary
    >>> class Uniform:
    ...     name, words = "uniform", ("one", "two")
    ...     def start(self): return None
    ...     def advance(self, state, word): return -0.5, None
    ...     def finish(self, state): return -0.25
    >>> spelling = Spelling(Vocabulary(["<blank>", "<unk>", "<sos/eos>", "one", "two"], "words"))
    >>> scorer = LanguageModelScorer(Uniform(), spelling, weight=2.0, word_bonus=0.0)
    >>> score, state = scorer.advance(scorer.start(), 3)
    >>> scorer.finish(state)
    -1.5
    """

    field: ScoreField = "lm_score"

    def __init__(
        self,
        model: LanguageModel,
        spelling: Spelling,
        weight: float,
        word_bonus: float,
        unknown_word_penalty: float = 0.0,
    ) -> None:
        _check_words(model, spelling)
        if unknown_word_penalty and not model.words:
            raise ValueError(
                f"unknown_word_penalty: {model.name} cannot list its words, like any binary file of KenLM; give the "
                "ARPA file that it was made from"
            )
        self.model, self.weight, self.word_bonus = model, weight, word_bonus
        self.unknown_word_penalty = unknown_word_penalty
        self.lexicons: tuple[Lexicon, ...] = (lexicon_of(tuple(model.words)),) if unknown_word_penalty else ()
        self._spelling, self._parts = spelling, spelling.parts
        # A token completes at most one word fewer than it has parts.
        self.most_gained = max(0.0, word_bonus) * np.array([len(parts) - 1 for parts in spelling.parts])

    def with_known_words(self, phrases: Sequence[str]) -> LanguageModelScorer:
        """Return a copy that has no penalty for the words of these phrases, such as hot words."""
        if not self.lexicons or not phrases:
            return self
        wider = copy.copy(self)
        wider.lexicons = (
            *self.lexicons,
            Lexicon(word for phrase in phrases for word in self._spelling.words_of(phrase)),
        )
        return wider

    def without_penalty(self) -> LanguageModelScorer:
        """Return a copy that has no penalty for unknown words, for text that a grammar allows."""
        plain = copy.copy(self)
        plain.lexicons = ()
        return plain

    def start(self) -> _Words:
        """Return the state of the empty prefix."""
        return _Words(self, self.model.start(), 0.0, "")

    def advance(self, state: _Words, token: int) -> tuple[float, _Words]:
        """Return the score after one more token, in nats, and the state."""
        words = state.followed_by(self._parts[token])
        return words.score, words

    def finish(self, state: _Words) -> float:
        """Return the score of the whole text, in nats, including its last word and the end of the text."""
        return state.final_score()

    def end_log_prob(self, tokens: Sequence[int]) -> float:
        """Return the natural-log probability that the text ends after these tokens."""
        state = self.start()
        for token in tokens:
            state = state.followed_by(self._parts[token])
        return state.end_log_prob()


class _Words:
    """A state of `LanguageModelScorer`: the score of the complete words, and the letters of the open word.

    Attributes:
        score: weighted log-probabilities and bonuses of the complete words, less the penalties, in nats.
    """

    __slots__ = ("_closed", "_is_penalised", "_open", "_scorer", "_state", "score")

    def __init__(
        self, scorer: LanguageModelScorer, state: Any, score: float, open_word: str, is_penalised: bool = False
    ) -> None:
        self.score = score
        self._scorer, self._state, self._open, self._is_penalised = scorer, state, open_word, is_penalised
        self._closed: _Words | None = None  # result of `_complete`, shared by all prefixes that continue from here

    def followed_by(self, parts: Sequence[str]) -> _Words:
        """Return the state after more text: the first part continues the open word, each other part begins a word."""
        first, *others = parts
        words = self._with_letters(first)
        for part in others:
            words = words._complete()._with_letters(part)
        return words

    def final_score(self) -> float:
        """Return the score of all words, the open one included, and of the end of the text."""
        words = self._complete()
        return words.score + self._scorer.weight * self._scorer.model.finish(words._state)

    def end_log_prob(self) -> float:
        """Return the natural-log probability that the text ends here, not weighted."""
        return self._scorer.model.finish(self._complete()._state)

    def _with_letters(self, letters: str) -> _Words:
        if not letters:
            return self
        scorer, score, open_word, is_penalised = self._scorer, self.score, self._open + letters, self._is_penalised
        if scorer.lexicons and not is_penalised:
            is_penalised = not any(lexicon.has_beginning(open_word) for lexicon in scorer.lexicons)
            score -= is_penalised * scorer.unknown_word_penalty
        return _Words(scorer, self._state, score, open_word, is_penalised)

    def _complete(self) -> _Words:
        """Return the state after the open word has ended."""
        if not self._open:
            return self
        if self._closed is None:
            scorer = self._scorer
            log_prob, state = scorer.model.advance(self._state, self._open)
            score = self.score + scorer.weight * log_prob + scorer.word_bonus
            if scorer.lexicons and not self._is_penalised and not any(self._open in each for each in scorer.lexicons):
                score -= scorer.unknown_word_penalty
            self._closed = _Words(scorer, state, score, "")
        return self._closed


def _check_words(model: LanguageModel, spelling: Spelling) -> None:
    """Raise ValueError if the vocabulary can spell none of a sample of the model's words."""
    problem = None
    for word in model.words[:: max(1, len(model.words) // _SAMPLED_WORDS)]:
        try:
            if spelling.spell(word).fewest_tokens == 1 or spelling.marked:
                return
            problem = problem or f"'{word}' is several tokens, each of which is a word to the search"
        except ValueError as error:
            problem = problem or f"'{word}': {error}"
    if problem:
        raise ValueError(
            f"the vocabulary can write no word of the language model {model.name} ({problem}); train it on text "
            "written like the transcripts of the acoustic model"
        )
