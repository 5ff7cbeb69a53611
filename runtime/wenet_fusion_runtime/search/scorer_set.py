"""Combine the scorers of a search into one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.search.contextual_biasing import HotWordScorer
from wenet_fusion_runtime.search.grammar.grammar import Grammar
from wenet_fusion_runtime.search.grammar.grammar_scorer import GrammarScorer
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.search.language_models.language_model import LanguageModel
from wenet_fusion_runtime.search.language_models.language_model_scorer import LanguageModelScorer
from wenet_fusion_runtime.search.scorers import LengthPenalty, ScoreField, Scorer
from wenet_fusion_runtime.search.spelling import Spelling

# The sum of the scores of one prefix, and each scorer's score and state. A plain tuple, because the search makes one
# per prefix and token that it tries, and named fields would take several times as long.
PrefixScore = tuple[float, Sequence[tuple[float, Any]]]
UNSCORED: PrefixScore = (0.0, ())


class ScorerSet:
    """Sum the scores of a search's scorers. It is read-only, and streams share it. An empty set is falsy.

    Args:
        scorers: the scorers; a hot word scorer without phrases is ignored.
    Attributes:
        most_gained: (V,) upper bound of the nats that each token can add to a prefix.

    >>> scorers = ScorerSet([LengthPenalty(0.5, vocabulary_size=5), LengthPenalty(1.0, vocabulary_size=5)])
    >>> total, _ = scorers.advance(scorers.start(), 3)
    >>> total
    -1.5
    """

    def __init__(self, scorers: Sequence[Scorer[Any]] = ()) -> None:
        self._scorers = tuple(scorer for scorer in scorers if not isinstance(scorer, HotWordScorer) or scorer.graphs)
        self._all = tuple(scorers)
        self._advances = [scorer.advance for scorer in self._scorers]
        self.most_gained: np.ndarray = sum((scorer.most_gained for scorer in scorers), np.zeros(1))

    def __bool__(self) -> bool:
        return bool(self._scorers)

    def with_hot_words(self, hot_words: Sequence[HotWord]) -> ScorerSet:
        """Return a copy with more hot words, whose boosts replace those of equal phrases.

        Raises:
            ValueError: hot words are unusable; the message lists all of them.
        """
        scorers = []
        for scorer in self._all:
            if isinstance(scorer, HotWordScorer):
                scorer = scorer.with_hot_words(hot_words)
            elif isinstance(scorer, LanguageModelScorer):
                scorer = scorer.with_known_words([each.phrase for each in hot_words if each.boost > 0])
            scorers.append(scorer)
        return ScorerSet(scorers)

    @property
    def has_grammar(self) -> bool:
        """True if only sentences of a grammar get a score above -inf."""
        return any(isinstance(scorer, GrammarScorer) for scorer in self._all)

    def with_grammar(self, grammar: Grammar, vocabulary: Vocabulary) -> ScorerSet:
        """Return a copy with this grammar in place of the present one.

        Raises:
            ValueError: the vocabulary cannot spell a word of the grammar, or the grammar is too large.
        """
        others = [
            scorer.without_penalty() if isinstance(scorer, LanguageModelScorer) else scorer
            for scorer in self._all
            if not isinstance(scorer, GrammarScorer)
        ]
        return ScorerSet([GrammarScorer(Spelling(vocabulary), grammar), *others])

    def start(self) -> PrefixScore:
        """Return the score of the empty prefix."""
        return 0.0, [(0.0, scorer.start()) for scorer in self._scorers]

    def advance(self, score: PrefixScore, token: int) -> PrefixScore:
        """Return the score after one more token."""
        if len(score[1]) == 1:  # one scorer, without a loop: beam search spends most of its time here
            part = self._advances[0](score[1][0][1], token)
            return part[0], (part,)
        total, parts = 0.0, []
        for advance, (_, state) in zip(self._advances, score[1]):
            part = advance(state, token)
            total += part[0]
            if total == -math.inf:  # outside of the grammar, whose scorer comes first: the prefix is dropped
                return total, ()
            parts.append(part)
        return total, parts

    def carried(self, before: ScorerSet, old: PrefixScore, score: PrefixScore, token: int) -> PrefixScore:
        """Return the score after one more token. Scorers that another set shares do not score the token again.

        The known scores of shared scorers, e.g. of a language model, are reused.

        Args:
            before: the other set.
            old: score of the other set after the token.
            score: score of this set before the token.
            token: the token.
        """
        known = {id(scorer): part for scorer, part in zip(before._scorers, old[1])}
        total, parts = 0.0, list[tuple[float, Any]]()
        for scorer, (_, state) in zip(self._scorers, score[1]):
            part = known.get(id(scorer)) or scorer.advance(state, token)
            total, parts = total + part[0], [*parts, part]
        return total, parts

    def end_probability(self, hypotheses: Sequence[Hypothesis]) -> float:
        """Return the language model's probability that the sentence ends here, as a mean over the hypotheses.

        Each hypothesis is weighted by exp(score). Without a language model the probability is 0.
        """
        models = [scorer for scorer in self._all if isinstance(scorer, LanguageModelScorer)]
        if not models:
            return 0.0
        scores = np.array([hypothesis.score for hypothesis in hypotheses])
        weights = np.exp(scores - scores.max())
        ends = np.exp([models[0].end_log_prob(hypothesis.ids) for hypothesis in hypotheses])
        return float(weights @ ends / weights.sum())

    def scored(self, hypothesis: Hypothesis, score: PrefixScore, is_final: bool) -> Hypothesis:
        """Return the hypothesis with each scorer's score in its field, and the CTC score plus their sum in `score`.

        Args:
            hypothesis: a hypothesis with CTC scores only.
            score: the scorers' score of its tokens.
            is_final: use the scorers' final scores, for a text that ends here.
        """
        total = 0.0
        fields: dict[ScoreField, float] = dict.fromkeys(get_args(ScoreField), 0.0)
        for scorer, (so_far, state) in zip(self._scorers, score[1]):
            added = scorer.finish(state) if is_final else so_far
            fields[scorer.field] += added
            total += added
        return hypothesis._replace(
            score=hypothesis.ctc_score + total,
            context_score=fields["context_score"],
            lm_score=fields["lm_score"],
            length_score=fields["length_score"],
            grammar_score=fields["grammar_score"],
        )


def make_scorers(
    vocabulary: Vocabulary,
    hot_words: Sequence[HotWord] = (),
    language_model: LanguageModel | None = None,
    lm_weight: float = 0.0,
    word_bonus: float = 0.0,
    length_penalty: float = 0.0,
    grammar: Grammar | None = None,
    unknown_word_penalty: float = 0.0,
) -> ScorerSet:
    """Prepare the scorers for one vocabulary; takes seconds for tens of thousands of hot words.

    Args:
        vocabulary: the model's tokens.
        hot_words: phrases to prefer, or to suppress.
        language_model: scores words; None: no language model.
        lm_weight: weight of its log-probabilities, not negative.
        word_bonus: nats added per word that the language model scores.
        length_penalty: nats subtracted per token; negative values favour longer texts.
        grammar: the sentences that may be found; None: any text.
        unknown_word_penalty: nats subtracted for each word that neither the language model nor a hot word with a
            positive boost contains; 0 within a grammar.
    Raises:
        ValueError: hot words are unusable (the message lists all of them), the vocabulary cannot spell the words of
            the language model or a word of the grammar, the grammar is too large, or there is a penalty for unknown
            words and the language model cannot list its words.
    """
    spelling, scorers = Spelling(vocabulary), list[Scorer[Any]]()
    if language_model is not None:
        scorers.append(LanguageModelScorer(language_model, spelling, lm_weight, word_bonus, unknown_word_penalty))
    if length_penalty:
        scorers.append(LengthPenalty(length_penalty, len(vocabulary)))
    found = ScorerSet([HotWordScorer(spelling), *scorers]).with_hot_words(hot_words)
    return found if grammar is None else found.with_grammar(grammar, vocabulary)
