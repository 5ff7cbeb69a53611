"""Limits on duration and transcript; training leaves out utterances beyond them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Filters:
    """Limits on duration and transcript; training leaves out an utterance beyond a limit, counts it and names it.

    The defaults keep every utterance of the usual corpora: LibriSpeech's longest has 35.2 s, and nobody speaks 50
    characters per second. Cut longer recordings: memory grows with the square of the length.

    >>> Filters().exceeded(seconds=600.0, tokens=80, characters=400)
    ('longest_seconds', 'lasts 600.0 s')
    >>> Filters().exceeded(seconds=12.0, tokens=80, characters=200)
    """

    longest_seconds: float = 40.0  # longest utterance, seconds
    shortest_seconds: float = 0.1  # shortest utterance, seconds
    longest_tokens: int = 1000  # longest transcript, tokens
    most_characters_per_second: float = 50.0  # fastest speech: characters of the transcript per second, without spaces

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        found = []
        if not 0 <= self.shortest_seconds < self.longest_seconds:
            found.append(
                f"shortest_seconds: {self.shortest_seconds} must be at least 0 and below longest_seconds: "
                f"{self.longest_seconds}"
            )
        if self.longest_tokens < 1:
            found.append(f"longest_tokens: {self.longest_tokens} must be at least 1")
        if not 0 < self.most_characters_per_second < math.inf:
            found.append(f"most_characters_per_second: {self.most_characters_per_second} must be positive and finite")
        return found

    def exceeded(self, seconds: float, tokens: int, characters: int) -> tuple[str, str] | None:
        """Return the first limit that an utterance exceeds, as its name and a description; None if there is none."""
        if seconds > self.longest_seconds:
            return "longest_seconds", f"lasts {seconds:.1f} s"
        if seconds < self.shortest_seconds:
            return "shortest_seconds", f"lasts {seconds:.3f} s"
        if tokens > self.longest_tokens:
            return "longest_tokens", f"has {tokens} tokens"
        if characters > self.most_characters_per_second * seconds:
            return "most_characters_per_second", f"has {characters} characters in {seconds:.2f} s"
        return None
