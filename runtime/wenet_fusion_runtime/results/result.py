"""What recognition returns: Hypothesis, Token and Result. Knows neither models nor audio."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Endpoint(str, Enum):
    """Why a segment closed."""

    RULE1 = "rule1"  # silence, and no text in the segment
    RULE2 = "rule2"  # silence after text
    RULE3 = "rule3"  # the segment had become too long
    REQUEST = "request"  # `Stream.close_segment`
    END = "end_of_audio"


class Hypothesis(NamedTuple):
    """One token sequence that a search found. All scores are in nats.

    The search ranks by ctc_score + context_score + lm_score + length_score; rescoring weights the first and adds
    attention_score.
    """

    ids: tuple[int, ...]
    ctc_score: float  # greedy: of the best alignment; prefix beam: of all alignments that the beam kept
    score: float  # what hypotheses are ranked by
    frames: tuple[int, ...]  # encoder frame, since the start of the stream, at which each token is emitted
    confidences: tuple[float, ...]  # posterior of each token at its peak in the best alignment, 0 to 1
    context_score: float = 0.0  # of hot words
    lm_score: float = 0.0  # of the language model: weighted log-probabilities and the bonus of each word
    length_score: float = 0.0  # minus the length penalty of each token
    attention_score: float = 0.0  # log-probability under the attention decoders, if they have rescored it

    @property
    def search_score(self) -> float:
        """What it was ranked by before it was rescored."""
        return self.ctc_score + self.context_score + self.lm_score + self.length_score


class Token(NamedTuple):
    """One recognised unit, as it is written in the vocabulary, and when it was spoken (see `word_times.py`)."""

    id: int
    text: str
    start_seconds: float  # since the start of the stream
    end_seconds: float
    confidence: float  # posterior at the token's peak, 0 to 1


class Word(NamedTuple):
    """A word of a result, or of a file that says when words are spoken."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float  # 0 to 1, the least of its tokens'
    spaced: bool = True  # whether a space stands before it, if it is not the first


@dataclass(frozen=True)
class Result:
    """The text of one segment of a stream: final once the segment is closed, a partial result before."""

    text: str
    tokens: tuple[Token, ...]
    words: tuple[Word, ...]
    committed: int  # so many leading words can no longer change; their times still may a little
    segment: int  # counts from 0 in each stream
    start_seconds: float  # of the segment, since the start of the stream; its first word may begin earlier
    end_seconds: float  # of what was decoded, the silent tail after the audio included
    hypotheses: tuple[Hypothesis, ...]  # best first; of a partial result those of the search, not rescored
    endpoint: Endpoint | None  # why the segment closed; None: it is open

    @property
    def is_final(self) -> bool:
        """Whether the segment is closed, so that nothing of it can change."""
        return self.endpoint is not None


def joined_ids(results: Iterable[Result]) -> list[int]:
    """The token ids of consecutive segments."""
    return [token.id for result in results for token in result.tokens]
