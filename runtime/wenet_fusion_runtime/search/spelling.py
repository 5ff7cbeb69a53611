"""Spell text with a vocabulary: split tokens and phrases into characters and word boundaries."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from wenet_fusion_runtime.results.normalization import normalize_text, spellings
from wenet_fusion_runtime.results.vocabulary import UNKNOWN, WORD_START, Vocabulary, is_unspaced

MAX_PHRASE = 200  # most characters of a client's hot word, of a term, and of a grammar's word
BOUNDARY = ord(WORD_START)
_UNKNOWN_SYMBOL = 0x10FFFF  # stands for <unk>; no character has this code point


class Spelled(NamedTuple):
    """The spelling of a phrase in the tokens of a vocabulary."""

    symbols: tuple[int, ...]
    fewest_tokens: int  # number of tokens in the shortest spelling


class Spelling:
    """Convert tokens and phrases to symbols, which do not depend on how a text is split into tokens.

    In a vocabulary of words each token is one symbol. In a vocabulary of pieces the symbols are characters (code
    points), and BOUNDARY marks the beginning and the end of a word: at U+2581, and on both sides of a character of a
    script without spaces. Two boundaries in a row count as one. A vocabulary without U+2581 has no boundaries.

    Args:
        vocabulary: the model's tokens.
    Attributes:
        marked: whether the vocabulary has boundaries.
        symbols: the symbols of each token.
        parts: the text of each token, split at word boundaries: the first part continues a word, every other part
            begins one. In a vocabulary of words, or without boundaries, each token is a word of its own.

    >>> tokens = ["<blank>", "<unk>", "<sos/eos>", "\u2581he", "llo", "o\u2581you"]
    >>> spelling = Spelling(Vocabulary(tokens, "pieces"))
    >>> spelling.parts[3:]
    [('', 'he'), ('llo',), ('o', 'you')]
    >>> spelling.spell("hello").fewest_tokens
    2
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        texts = {token: text for token, text in enumerate(vocabulary.tokens) if token not in vocabulary.reserved}
        self._is_words = vocabulary.join == "words"
        self.marked = not self._is_words and any(WORD_START in text for text in texts.values())
        self.symbols: list[tuple[int, ...]] = [()] * len(vocabulary)
        self.parts: list[tuple[str, ...]] = [("",)] * len(vocabulary)
        for token, text in enumerate(vocabulary.tokens):
            if token in vocabulary.textless:
                continue
            form = _marked(text) if self.marked and token != UNKNOWN else text
            self.parts[token] = tuple(form.split(WORD_START)) if self.marked else ("", text, "")
            if self._is_words:
                self.symbols[token] = (token,)
            else:
                self.symbols[token] = (_UNKNOWN_SYMBOL,) if token == UNKNOWN else tuple(map(ord, form))
        # The token of each text, boundaries included.
        self._forms = {_marked(text) if self.marked else text: token for token, text in texts.items()}
        self._longest = max(map(len, self._forms), default=0)

    @cached_property
    def _characters(self) -> frozenset[str]:
        return frozenset(character for form in self._forms for character in form) | {WORD_START}

    def spell(self, phrase: str) -> Spelled:
        """Return the symbols of a phrase. If the vocabulary has boundaries, the phrase begins and ends with one.

        The phrase is normalised like transcripts; see `normalize_text`.

        Raises:
            ValueError: the phrase is empty, or no sequence of tokens spells it. The message gives the reason without
                the phrase.
        """
        try:
            return self._spell_any_form(phrase)
        except ValueError as error:
            for other in (phrase.upper(), phrase.lower()):
                if other != phrase and self._can_spell(other):
                    raise ValueError(f"{error}, but there are tokens for '{other}'") from None
            raise

    def spell_any_case(self, phrase: str) -> tuple[Spelled, str] | None:
        """Return the symbols of a phrase and the form that was spelled: unchanged, else upper case, else lower case.

        Returns:
            None if the phrase has more than 200 characters or tokens can spell none of its forms.
        """
        for form in (phrase, phrase.upper(), phrase.lower()) if len(phrase) <= MAX_PHRASE else ():
            try:
                return self._spell_any_form(form), form
            except ValueError:
                continue
        return None

    def words_of(self, phrase: str) -> list[str]:
        """Return the words of a phrase as the search splits them; without boundaries, all tokens within the phrase.

        >>> from wenet_fusion_runtime.results.vocabulary import RESERVED
        >>> Spelling(Vocabulary([*RESERVED, "a", "b", "c"], "pieces")).words_of("ab")
        ['a', 'b']
        """
        if self._is_words:
            return phrase.split()
        if self.marked:
            return split_words(normalize_text(phrase))
        return [text for text in self._forms if any(text in form for form in spellings(phrase))]

    def _can_spell(self, phrase: str) -> bool:
        try:
            self._spell_any_form(phrase)
        except ValueError:
            return False
        return True

    def _spell_any_form(self, phrase: str) -> Spelled:
        problems = []
        for form in spellings(phrase):
            words = form.replace(WORD_START, " ").split()
            if not words:
                raise ValueError("is empty")
            try:
                return self._words(words) if self._is_words else self._pieces(words)
            except ValueError as error:
                problems.append(error)
        raise problems[0]

    def _words(self, words: list[str]) -> Spelled:
        missing = [word for word in words if word not in self._forms]
        if missing:
            raise ValueError(f"no token is {_listed(missing)}")
        return Spelled(tuple(self._forms[word] for word in words), len(words))

    def _pieces(self, words: list[str]) -> Spelled:
        text = _marked(f" {' '.join(words)} ".replace(" ", WORD_START)) if self.marked else "".join(words)
        fewest = self._fewest_tokens(text)
        if fewest is None:
            missing = [character for character in text if character not in self._characters]
            raise ValueError(f"no token has {_listed(missing)}" if missing else "no sequence of tokens spells it")
        return Spelled(tuple(map(ord, text)), fewest)

    def _fewest_tokens(self, text: str) -> int | None:
        """Return the smallest number of tokens that spell a text; None if no sequence of tokens spells it."""
        begin, end = int(self.marked), len(text) - int(self.marked)  # boundaries at both ends are optional
        fewest: list[int | None] = [None] * (len(text) + 1)  # smallest number of tokens up to each position
        fewest[begin] = 0
        for position in range(begin, end):
            count = fewest[position]
            if count is None:
                continue
            for stop in range(position + 1, min(position + self._longest, len(text)) + 1):
                form, best = text[position:stop], fewest[stop]
                # Two boundaries in a row count as one.
                after_boundary = text[position - 1 : position] == WORD_START
                if form in self._forms or (after_boundary and WORD_START + form in self._forms):
                    fewest[stop] = count + 1 if best is None else min(best, count + 1)
        return min((count for count in fewest[end:] if count is not None), default=None)


def split_words(text: str) -> list[str]:
    """Split a text into words at spaces and around each character of a script without spaces.

    >>> split_words("hello \u4f60\u597d")
    ['hello', '\u4f60', '\u597d']
    """
    return _marked(text.replace(" ", WORD_START)).replace(WORD_START, " ").split()


def _marked(text: str) -> str:
    """Surround characters of scripts without spaces with boundaries, and merge consecutive boundaries."""
    if any(map(is_unspaced, text)):
        text = "".join(f"{WORD_START}{letter}{WORD_START}" if is_unspaced(letter) else letter for letter in text)
    while WORD_START * 2 in text:
        text = text.replace(WORD_START * 2, WORD_START)
    return text


def _listed(items: list[str]) -> str:
    return ", ".join(f"'{item}'" for item in dict.fromkeys(items))
