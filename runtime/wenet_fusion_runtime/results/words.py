"""Group the tokens of a result into words with timestamps and confidence."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from wenet_fusion_runtime.results.result import Result, Token, Word
from wenet_fusion_runtime.results.vocabulary import UNKNOWN, WORD_START, Vocabulary, is_unspaced


class Words(NamedTuple):
    """The words of a token sequence."""

    words: tuple[Word, ...]
    closed: tuple[int, ...]  # for each token, the number of words that no later token can change


class _Builder:
    """Builds a word from its tokens."""

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


def group_words(tokens: Sequence[Token], vocabulary: Vocabulary) -> Words:
    """Return the words of consecutive tokens.

    If tokens are joined as words, each token is a word. If they are pieces, a word begins at U+2581, and each Chinese
    or Japanese character is a word; in a vocabulary without any U+2581 each token is a word.

    A word begins with the first token that holds one of its characters, and ends with the last one. Its confidence is
    the lowest of its tokens, because one wrong token makes the word wrong.

    >>> vocabulary = Vocabulary(["<blank>", "<unk>", "<sos/eos>", "\u2581he", "llo"], "pieces")
    >>> tokens = [Token(3, "\u2581he", 0.0, 0.1, 0.9), Token(4, "llo", 0.1, 0.2, 0.8)]
    >>> group_words(tokens, vocabulary).words[0].text
    'hello'
    """
    if vocabulary.join == "words" or not vocabulary.marked:
        return _token_words(tokens, vocabulary)
    built: list[_Builder] = []
    closed: list[int] = []
    is_open, spaced = False, False
    for token in tokens:
        for text, alone in () if token.id in vocabulary.textless else _parts(token):
            if text == WORD_START:
                is_open, spaced = False, True
                continue
            if alone or not is_open:
                built.append(_Builder(spaced))
            built[-1].add(text, token)
            is_open, spaced = not alone, False
        closed.append(len(built) - is_open)
    return Words(tuple(builder.word() for builder in built), tuple(closed))


def _token_words(tokens: Sequence[Token], vocabulary: Vocabulary) -> Words:
    """Return the words of tokens that are words."""
    spaced = vocabulary.join == "words"
    words: list[Word] = []
    closed: list[int] = []
    for token in tokens:
        if token.id not in vocabulary.textless:
            words.append(Word(token.text, token.start_seconds, token.end_seconds, token.confidence, spaced))
        closed.append(len(words))
    return Words(tuple(words), tuple(closed))


def _parts(token: Token) -> Sequence[tuple[str, bool]]:
    """Return the parts of a token's text, and for each whether it is a word by itself."""
    return ((token.text, is_unspaced(token.text)),) if token.id == UNKNOWN else _parts_of_text(token.text)


@functools.lru_cache(maxsize=1 << 16)
def _parts_of_text(text: str) -> tuple[tuple[str, bool], ...]:
    """Split a piece before and after each U+2581 and each character that is a word by itself."""
    parts: list[tuple[str, bool]] = []
    for character in text:
        alone, last = is_unspaced(character), parts[-1] if parts else (WORD_START, False)
        if alone or character == WORD_START or last[0] == WORD_START or last[1]:
            parts.append((character, alone))
        else:
            parts[-1] = (last[0] + character, False)
    return tuple(parts)


def spaced_text(result: Result, vocabulary: Vocabulary) -> str:
    """Return a segment's text with its outer spaces, so that the texts of consecutive segments can be joined."""
    spaced = vocabulary.spaced([token.id for token in result.tokens])
    if result.text == spaced.strip():
        return spaced
    return f" {result.text}" if spaced.startswith(" ") else result.text  # a formatter wrote it


def joined_words(words: Sequence[Word]) -> str:
    """Return the text of consecutive words, e.g. of the final words, `result.words[: result.committed]`.

    >>> joined_words([Word("one", 0.0, 0.3, 0.9), Word("two", 0.3, 0.6, 0.9)])
    'one two'
    """
    return "".join(f" {word.text}" if word.spaced else word.text for word in words).strip()
