"""How units spell text: characters, and where words begin and end. Knows neither phrases nor scores."""

from __future__ import annotations

from typing import NamedTuple

from wenet_fusion_runtime.results.vocabulary import (
    BLANK,
    RESERVED,
    SOS_EOS,
    UNKNOWN,
    WORD_START,
    Vocabulary,
    is_unspaced,
)

BOUNDARY = ord(WORD_START)
_STRANGE = 0x10FFFF  # no character: what <unk> spells


class Spelled(NamedTuple):
    """A phrase as the units of a model write it."""

    symbols: tuple[int, ...]
    fewest_units: int  # that spell it


class Spelling:
    """The units of a vocabulary as symbols and as parts of words. Text is the same symbols however it is cut into units.

    If units are joined as words, each is one symbol. If they are pieces, symbols are characters (code points), and
    BOUNDARY where a word begins or ends: at U+2581, and on both sides of a character of a script without spaces. A
    boundary after a boundary means nothing. In a vocabulary without any U+2581 there are no boundaries.

    Attributes:
        marked: whether there are boundaries.
        symbols: of each unit.
        parts: of each unit, its text cut at word boundaries: the first part goes on with a word, the others begin one.
            In a vocabulary without boundaries, and if units are joined as words, each unit is a word.
    """

    def __init__(self, units: Vocabulary) -> None:
        texts = units.tokens[len(RESERVED) :]
        self._is_words = units.join == "words"
        self.marked = not self._is_words and any(WORD_START in text for text in texts)
        self.symbols, self.parts = [()] * len(units), [("",)] * len(units)
        for unit, text in enumerate(units.tokens):
            if unit in (BLANK, SOS_EOS):
                continue
            form = _marked(text) if self.marked and unit != UNKNOWN else text
            self.parts[unit] = tuple(form.split(WORD_START)) if self.marked else ("", text, "")
            if self._is_words:
                self.symbols[unit] = (unit,)
            else:
                self.symbols[unit] = (_STRANGE,) if unit == UNKNOWN else tuple(map(ord, form))
        # What each unit writes, with its boundaries.
        self._forms = {_marked(text) if self.marked else text: unit for unit, text in enumerate(texts, len(RESERVED))}
        self._longest = max(map(len, self._forms), default=0)

    def spell(self, phrase: str) -> Spelled:
        """The symbols of a phrase; with boundaries it begins and ends with one.

        Raises:
            ValueError: it is empty, or the units cannot spell it; the text is only the reason.
        """
        words = phrase.replace(WORD_START, " ").split()
        if not words:
            raise ValueError("is empty")
        try:
            return self._words(words) if self._is_words else self._pieces(words)
        except ValueError as error:
            for other in (phrase.upper(), phrase.lower()):
                if other != phrase and self._can_spell(other):
                    raise ValueError(f"{error}, but there are units for '{other}'") from None
            raise

    def _can_spell(self, phrase: str) -> bool:
        words = phrase.replace(WORD_START, " ").split()
        try:
            self._words(words) if self._is_words else self._pieces(words)
        except ValueError:
            return False
        return True

    def _words(self, words: list[str]) -> Spelled:
        strange = [word for word in words if word not in self._forms]
        if strange:
            raise ValueError(f"no unit is {_listed(strange)}")
        return Spelled(tuple(self._forms[word] for word in words), len(words))

    def _pieces(self, words: list[str]) -> Spelled:
        text = _marked(f" {' '.join(words)} ".replace(" ", WORD_START)) if self.marked else "".join(words)
        fewest = self._fewest_units(text)
        if fewest is None:
            known = {character for form in self._forms for character in form} | {WORD_START}
            strange = [character for character in text if character not in known]
            raise ValueError(f"no unit has {_listed(strange)}" if strange else "no sequence of units spells it")
        return Spelled(tuple(map(ord, text)), fewest)

    def _fewest_units(self, text: str) -> int | None:
        """The smallest number of units that spell a text; None if none do."""
        begin, end = int(self.marked), len(text) - int(self.marked)  # a boundary at either end need not be spelled
        fewest: list[int | None] = [None] * (len(text) + 1)
        fewest[begin] = 0
        for position in range(begin, end):
            if fewest[position] is None:
                continue
            for stop in range(position + 1, min(position + self._longest, len(text)) + 1):
                form = text[position:stop]
                # After a boundary another one means nothing.
                if form in self._forms or (
                    text[position - 1 : position] == WORD_START and WORD_START + form in self._forms
                ):
                    found = fewest[position] + 1
                    if fewest[stop] is None or found < fewest[stop]:
                        fewest[stop] = found
        ends = [count for count in fewest[end:] if count is not None]
        return min(ends, default=None)


def split_words(text: str) -> list[str]:
    """A text's words as a search sees them in units that mark boundaries: what stands between spaces, and each character
    of a script without spaces."""
    return _marked(text.replace(" ", WORD_START)).replace(WORD_START, " ").split()


def _marked(text: str) -> str:
    """Boundaries around characters of unspaced scripts, no two in a row."""
    if any(map(is_unspaced, text)):
        text = "".join(f"{WORD_START}{letter}{WORD_START}" if is_unspaced(letter) else letter for letter in text)
    while WORD_START * 2 in text:
        text = text.replace(WORD_START * 2, WORD_START)
    return text


def _listed(items: list[str]) -> str:
    return ", ".join(f"'{item}'" for item in dict.fromkeys(items))
