"""A list of words that can be searched by the beginnings of words."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from wenet_fusion_runtime.results.normalization import normalize_text


class Lexicon:
    """The words of a language model, as they are and in normal form.

    Args:
        words: the words.

    >>> lexicon = Lexicon(["lights", "light", "off"])
    >>> lexicon.has_beginning("ligh"), "ligh" in lexicon, "light" in lexicon
    (True, False, True)
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = sorted({form for word in words for form in (word, normalize_text(word))})

    def __contains__(self, word: str) -> bool:
        """Return whether this is one of the words."""
        at = bisect_left(self._words, word)
        return at < len(self._words) and self._words[at] == word

    def has_beginning(self, text: str) -> bool:
        """Return whether a word begins with this text."""
        at = bisect_left(self._words, text)
        return at < len(self._words) and self._words[at].startswith(text)
