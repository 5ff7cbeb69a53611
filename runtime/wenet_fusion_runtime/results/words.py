"""Groups the tokens of a result into words with times and confidence. Knows neither models nor searches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from wenet_fusion_runtime.results.result import Token, Word
from wenet_fusion_runtime.results.vocabulary import BLANK, SOS_EOS, UNKNOWN, WORD_START, Vocabulary, is_unspaced


class Words(NamedTuple):
    """The words of a token sequence."""

    words: tuple[Word, ...]
    is_open: bool  # whether another token could go on with the last word

    @property
    def closed(self) -> int:
        """How many words no further token can change."""
        return len(self.words) - self.is_open


class _Builder:
    """A word while its tokens come."""

    def __init__(self, spaced: bool) -> None:
        self._spaced = spaced
        self._text = ""
        self._tokens: list[Token] = []

    def add(self, text: str, token: Token) -> None:
        self._text += text
        self._tokens.append(token)

    def word(self) -> Word:
        confidence = min(token.confidence for token in self._tokens)
        return Word(self._text, self._tokens[0].start_seconds, self._tokens[-1].end_seconds, confidence, self._spaced)


def group_words(tokens: Iterable[Token], units: Vocabulary) -> Words:
    """The words of tokens in order.

    If units are joined as words, each is one. If they are pieces, a word begins at U+2581, and each character of a
    script without spaces between words is one; in a vocabulary without any U+2581 each unit is a word.

    A word starts with the first token that has a character of it and ends with the last one. Its confidence is the least
    of its tokens': it is wrong if one of them is.
    """
    built: list[_Builder] = []
    is_open, spaced = False, False
    by_units = units.join == "words" or not units.marked
    for token in tokens:
        if token.id in (BLANK, SOS_EOS):
            continue
        if by_units:
            built.append(_Builder(units.join == "words"))
            built[-1].add(token.text, token)
            continue
        for text in [token.text] if token.id == UNKNOWN else token.text:
            if text == WORD_START:
                is_open, spaced = False, True
                continue
            alone = is_unspaced(text)
            if alone or not is_open:
                built.append(_Builder(spaced))
            built[-1].add(text, token)
            is_open, spaced = not alone, False
    return Words(tuple(builder.word() for builder in built), is_open)


def joined_words(words: Sequence[Word]) -> str:
    """The text of consecutive words, such as `result.words[: result.committed]`."""
    return "".join(f" {word.text}" if word.spaced else word.text for word in words).strip()
