"""Results of recognition: hypotheses, tokens, words and segments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Endpoint(str, Enum):
    """The reason why a segment closed."""

    RULE1 = "rule1"  # silence in a segment without text
    RULE2 = "rule2"  # silence after text
    RULE3 = "rule3"  # the segment became too long
    COMPLETE = "complete"  # the sentence is complete according to the language model
    REQUEST = "request"  # `Stream.close_segment`
    END = "end_of_audio"


class Hypothesis(NamedTuple):
    """One token sequence that a search found. All scores are in nats.

    The search ranks by ctc_score + context_score + lm_score + length_score + grammar_score; rescoring multiplies these
    by weights and adds attention_score.
    """

    ids: tuple[int, ...]
    ctc_score: float  # log-probability of the best alignment (greedy) or of all alignments in the beam (prefix beam)
    score: float  # the score by which hypotheses are ranked
    frames: tuple[int, ...]  # encoder frame that emitted each token, counted from the start of the stream
    confidences: tuple[float, ...]  # 0 to 1: posteriors at the tokens' peaks; with a grammar, times exp(-grammar_gap)
    context_score: float = 0.0  # contextual biasing: the boosts of hot words
    lm_score: float = 0.0  # language model: weighted log-probabilities and word bonuses
    length_score: float = 0.0  # minus the length penalties of the tokens
    attention_score: float = 0.0  # log-probability according to the attention decoders, after rescoring
    alignment_score: float = 0.0  # log-probability of the best alignment
    grammar_score: float = 0.0  # grammar: log of the weights of the alternatives
    grammar_gap: float = 0.0  # grammar: lead of the greedy path over this hypothesis, nats per token

    @property
    def search_score(self) -> float:
        """The score that ranks the hypothesis before rescoring."""
        return self.ctc_score + self.context_score + self.lm_score + self.length_score + self.grammar_score


class Token(NamedTuple):
    """One recognised token with its timestamps (see `timestamps.py`)."""

    id: int
    text: str  # as written in the vocabulary
    start_seconds: float  # from the start of the stream
    end_seconds: float
    confidence: float  # 0 to 1: its posterior at its peak; with a grammar, times exp(-grammar_gap)


class Word(NamedTuple):
    """A word with its timestamps, from a result or from a reference file."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float  # 0 to 1, the lowest of its tokens
    spaced: bool = True  # whether a space precedes it, unless it is the first word


@dataclass(frozen=True)
class Result:
    """The text of one segment of a stream: a partial result while the segment is open, a final one after that.

    >>> word = Word("one", 0.5, 0.8, confidence=0.9)
    >>> Result("one", (), (word,), 0, 0, 0.0, 1.0, (), endpoint=None).is_final
    False
    """

    text: str  # rewritten by the formatter if the segment is closed; tokens and words are as recognised
    tokens: tuple[Token, ...]
    words: tuple[Word, ...]
    committed: int  # number of final words at the start of `words`; their times may still change a little
    segment: int  # number of the segment in its stream, from 0
    start_seconds: float  # start of the segment in the stream; its first word may begin earlier
    end_seconds: float  # end of the segment so far; the right padding counts
    hypotheses: tuple[Hypothesis, ...]  # best first; not rescored in a partial result
    endpoint: Endpoint | None  # why the segment closed; None while it is open

    @property
    def is_final(self) -> bool:
        """True once the segment is closed: nothing in it can change."""
        return self.endpoint is not None


def joined_ids(results: Iterable[Result]) -> list[int]:
    """Return the token ids of consecutive segments."""
    return [token.id for result in results for token in result.tokens]
