"""The interface of scorers, which add to the CTC score of a prefix, and the length penalty."""

from __future__ import annotations

from typing import Literal, Protocol, TypeVar

import numpy as np

ScoreField = Literal["context_score", "lm_score", "length_score", "grammar_score"]


State = TypeVar("State")


class Scorer(Protocol[State]):
    """Add to the CTC score of each prefix of a beam search, token by token. A scorer is read-only; streams share it.

    Each prefix has a state, which is never changed: `advance` makes a new one.
    """

    @property
    def field(self) -> ScoreField:
        """The field of `Hypothesis` that gets the score."""
        ...

    @property
    def most_gained(self) -> np.ndarray:
        """(V,) upper bound of the nats that each token can add to a prefix; the search uses it for pruning."""
        ...

    def start(self) -> State:
        """Return the state of the empty prefix, whose score is 0."""
        ...

    def advance(self, state: State, token: int) -> tuple[float, State]:
        """Return the score of the prefix with one more token, in nats, and its state."""
        ...

    def finish(self, state: State) -> float:
        """Return the score of the whole text, in nats, if it ends after `state`."""
        ...


class LengthPenalty:
    """Subtract a constant for each token. The state is the score so far.

    Args:
        penalty: nats per token; negative values favour longer texts.
        vocabulary_size: number of tokens, V.
    Attributes:
        most_gained: see `Scorer`.

    >>> scorer = LengthPenalty(0.5, vocabulary_size=5)
    >>> score, state = scorer.advance(scorer.start(), 3)
    >>> scorer.finish(state)
    -0.5
    """

    field: ScoreField = "length_score"

    def __init__(self, penalty: float, vocabulary_size: int) -> None:
        self._penalty = penalty
        self.most_gained = np.full(vocabulary_size, max(0.0, -penalty))

    def start(self) -> float:
        """Return the state of the empty prefix."""
        return 0.0

    def advance(self, state: float, token: int) -> tuple[float, float]:
        """Return the score after one more token, in nats, and the state."""
        score = state - self._penalty
        return score, score

    def finish(self, state: float) -> float:
        """Return the score of the whole text, in nats."""
        return state
