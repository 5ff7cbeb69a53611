"""Split transcripts into words or characters, to count errors in them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, get_args

from wenet_fusion_runtime.results.normalization import normalize_text
from wenet_fusion_runtime.results.vocabulary import is_unspaced

Unit = Literal["word", "char", "mixed"]
UNITS: tuple[Unit, ...] = get_args(Unit)

_SINGULAR = {"words": "word", "characters": "character", "words and characters": "word or character"}
_INNER_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")


@dataclass(frozen=True)
class Counting:
    """Settings to count errors: in words, characters or both, with or without case and punctuation.

    Texts are first normalised as in training (`normalize_text`), so that texts that look alike count as equal.

    >>> Counting("mixed", ignore_case=True).tokens("Hello 你好")
    ['hello', '你', '好']
    """

    unit: Unit = "word"  # mixed: Chinese and Japanese text by characters, everything else by words
    ignore_case: bool = False  # compare case-folded text, also Greek, Cyrillic, and German sharp s
    ignore_punctuation: bool = False  # leave out Unicode's category P, but keep an apostrophe within a word

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"errors are counted in {', '.join(UNITS)}, not in {self.unit!r}")

    @property
    def rate_name(self) -> str:
        """Return the name of the error rate: WER, CER or MER (mixed)."""
        return {"word": "WER", "char": "CER", "mixed": "MER"}[self.unit]

    @property
    def noun(self) -> str:
        """Return the name of the unit, e.g. "words"."""
        return {"word": "words", "char": "characters", "mixed": "words and characters"}[self.unit]

    @property
    def description(self) -> str:
        """Return the unit and the differences that are ignored, e.g. "words, case ignored"."""
        names = [
            name for name, ignored in (("case", self.ignore_case), ("punctuation", self.ignore_punctuation)) if ignored
        ]
        return self.noun + (f", {' and '.join(names)} ignored" if names else "")

    def tokens(self, text: str) -> list[str]:
        """Return the words of a text, or its characters without white space, or both (unit "mixed")."""
        text = normalize_text(text)
        if self.ignore_case:
            text = normalize_text(text.casefold())
        if self.ignore_punctuation:
            text = _without_punctuation(text)
        if self.unit == "mixed":
            text = "".join(f" {character} " if is_unspaced(character) else character for character in text)
        words = text.split()
        return list("".join(words)) if self.unit == "char" else words


def counted(number: int, noun: str) -> str:
    """Return a number with its unit, which is a `Counting.noun`.

    >>> counted(1, "words"), counted(1597, "words")
    ('1 word', '1,597 words')
    """
    return f"{number:,} {_SINGULAR[noun] if number == 1 else noun}"


def _without_punctuation(text: str) -> str:
    """Replace punctuation by spaces, so that words on its two sides stay separate."""
    inner = {match.start() for match in _INNER_APOSTROPHE.finditer(text)}
    return "".join(
        "'" if index in inner else " " if unicodedata.category(character).startswith("P") else character
        for index, character in enumerate(text)
    )
