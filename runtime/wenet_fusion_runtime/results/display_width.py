"""Measure text in columns of a terminal or of a subtitle."""

from __future__ import annotations

import unicodedata


def display_width(text: str) -> int:
    """Return the number of columns of a text: 2 for an East Asian wide character, 0 for a combining one, else 1.

    The package wcwidth has larger tables but would add 6 MB and 28 ms of import; a test compares both.

    >>> [display_width(text) for text in ("aé", "漢", "漢字 ok")]
    [2, 2, 7]
    """
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    is_vowel_or_final = "\u1160" <= char <= "\u11ff"  # Hangul jamo, drawn in the cell of the syllable's first one
    if is_vowel_or_final or (unicodedata.category(char) in ("Mn", "Me", "Cf") and char != "\u00ad"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
