"""What a search adds to the CTC score of a prefix. Knows neither frames nor beams, nor where a language model comes from."""

from __future__ import annotations

from typing import Any, Protocol


class LanguageModel(Protocol):
    """Probabilities of words, one after the other. Read-only and shared by all streams and threads.

    States are opaque values: hashable or not, but never changed by a call. The search keeps one for each prefix and
    asks once for each word of each prefix, when the word is complete; hypotheses that share words share the call.

    Words are the text between spaces, as the results show it: no marks of word starts, no spaces, the case of the
    model's units, `<unk>` where the acoustic model wrote it. If the units are written without spaces (no unit holds
    U+2581), each unit is a word.
    """

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
