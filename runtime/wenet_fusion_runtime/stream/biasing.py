"""The hot words of one stream, as an immutable value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.search.context_terms import TermFinder
from wenet_fusion_runtime.search.grammar.grammar import Grammar
from wenet_fusion_runtime.search.hot_words import DEFAULT_BOOST, HotWord
from wenet_fusion_runtime.search.scorer_set import ScorerSet
from wenet_fusion_runtime.stream.decoding_options import check_alternatives


@dataclass(frozen=True)
class Biasing:
    """The hot words and the context of one stream, in addition to the hot words of all streams.

    A phrase that is both a hot word and a term of the context gets the hot word's boost.

    >>> from wenet_fusion_runtime.results.vocabulary import RESERVED, Vocabulary
    >>> from wenet_fusion_runtime.search.scorer_set import make_scorers
    >>> vocabulary = Vocabulary([*RESERVED, "ANNA", "CALLS"], "words")
    >>> biasing = Biasing("ctc_prefix_beam_search", make_scorers(vocabulary), TermFinder(vocabulary))
    >>> [word.phrase for word in biasing.with_context("Then Anna calls.").context]
    ['ANNA']
    """

    mode: str  # one of MODES
    shared: ScorerSet  # the scorers of all streams
    finder: TermFinder
    hot_words: tuple[HotWord, ...] = ()
    context: tuple[HotWord, ...] = ()  # the terms of a text
    own: ScorerSet | None = None  # `shared` with hot words and context; None: the stream has none

    @property
    def scorers(self) -> ScorerSet:
        """The scorers of the stream."""
        return self.shared if self.own is None else self.own

    def with_grammar(self, grammar: Grammar, vocabulary: Vocabulary) -> Biasing:
        """Return a value with this grammar in place of the present one.

        Raises:
            ValueError: the mode keeps one hypothesis only, or the grammar cannot be used; see `make_scorers`.
        """
        check_alternatives(self.mode, "grammars")
        return replace(self, shared=self.shared.with_grammar(grammar, vocabulary))._with(self.hot_words, self.context)

    def with_hot_words(self, hot_words: Sequence[HotWord]) -> Biasing:
        """Return a value with these hot words in place of the present ones; the same value if nothing changes.

        Raises:
            ValueError: hot words are unusable (the message lists all of them), or the mode keeps one hypothesis only.
        """
        if _boosts(hot_words) == _boosts(self.hot_words):
            return self
        if hot_words:
            check_alternatives(self.mode, "hot words")
        return self._with(tuple(hot_words), self.context)

    def with_context(self, text: str, boost: float = DEFAULT_BOOST) -> Biasing:
        """Return a value with the terms of `text` as its context, in place of the present one; see `TermFinder`.

        Raises:
            ValueError: the text is not blank but the mode keeps one hypothesis only, or the boost is out of range.
        """
        if text.strip():
            check_alternatives(self.mode, "hot words and a context")  # first, because finding terms takes time
        context = tuple(HotWord(term, boost, "context") for term in self.finder.find(text))
        if _boosts(context) == _boosts(self.context):
            return self
        return self._with(self.hot_words, context)

    def _with(self, hot_words: tuple[HotWord, ...], context: tuple[HotWord, ...]) -> Biasing:
        scorers = self.shared
        for words in (context, hot_words):  # a phrase in both keeps the last boost
            scorers = scorers.with_hot_words(words) if words else scorers
        own = scorers if context or hot_words else None
        return replace(self, hot_words=hot_words, context=context, own=own)


def _boosts(words: Sequence[HotWord]) -> list[tuple[str, float]]:
    return [(word.phrase, word.boost) for word in words]
