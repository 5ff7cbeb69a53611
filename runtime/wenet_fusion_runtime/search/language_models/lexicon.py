"""A list of words that can be searched by the beginnings of words."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import lru_cache

from wenet_fusion_runtime.results.normalization import spellings


class Lexicon:
    """The words of a language model, in all forms in which a vocabulary may spell them.

    Args:
        words: the words.

    >>> lexicon = Lexicon(["lights", "light", "off"])
    >>> lexicon.has_beginning("ligh"), "ligh" in lexicon, "light" in lexicon
    (True, False, True)
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = sorted({form for word in words for form in spellings(word)})

    def __contains__(self, word: str) -> bool:
        """Return whether this is one of the words."""
        at = bisect_left(self._words, word)
        return at < len(self._words) and self._words[at] == word

    def has_beginning(self, text: str) -> bool:
        """Return whether a word begins with this text."""
        at = bisect_left(self._words, text)
        return at < len(self._words) and self._words[at].startswith(text)


@lru_cache(maxsize=4)
def lexicon_of(words: tuple[str, ...]) -> Lexicon:
    """Return the lexicon of these words. It is kept, because making one takes 0.2 s for 100,000 words."""
    return Lexicon(words)
