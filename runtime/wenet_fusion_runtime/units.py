"""Token ids to text. Knows nothing of how text was cut into tokens."""

from __future__ import annotations

from typing import Sequence

BLANK = 0
UNKNOWN = 1
SOS_EOS = 2
RESERVED = ("<blank>", "<unk>", "<sos/eos>")
JOINS = ("words", "pieces")
WORD_START = "\u2581"    # sentencepiece's mark of a word's start
# First and last characters of scripts that put no spaces between words: Han with its marks, Hiragana, Katakana.
_UNSPACED = (("\u3005", "\u3007"), ("\u3040", "\u30ff"), ("\u31f0", "\u31ff"), ("\u3400", "\u4dbf"), ("\u4e00", "\u9fff"),
             ("\uf900", "\ufaff"), ("\uff66", "\uff9d"), ("\U00020000", "\U0003ffff"))


def is_unspaced(character: str) -> bool:
    """Whether it belongs to a script without spaces between words."""
    return character >= "\u3005" and any(first <= character <= last for first, last in _UNSPACED)


class Units:
    """A vocabulary in the order of its ids, and the rule that joins its units into text.

    Args:
        tokens: the units; ids 0, 1, 2 are `<blank>`, `<unk>`, `<sos/eos>`.
        join: "words": units separated by spaces; "pieces": units concatenated, the mark U+2581 read as a space.
    Raises:
        ValueError: reserved units are missing, a unit occurs twice, or the rule is unknown.
    """

    def __init__(self, tokens: Sequence[str], join: str) -> None:
        self.tokens = tuple(tokens)
        self.join = join
        self.marked = any(WORD_START in token for token in self.tokens)    # whether pieces say where words begin
        if self.tokens[:3] != RESERVED:
            raise ValueError(f"the first three units must be {list(RESERVED)}, found {list(self.tokens[:3])}")
        if len(set(self.tokens)) != len(self.tokens):
            twice = sorted({token for token in self.tokens if self.tokens.count(token) > 1})
            raise ValueError(f"units occur more than once: {twice[:10]}")
        if join not in JOINS:
            raise ValueError(f"unknown rule to join units '{join}'; known: {', '.join(JOINS)}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Units) and (self.tokens, self.join) == (other.tokens, other.join)

    def __hash__(self) -> int:
        return hash((self.tokens, self.join))

    def __len__(self) -> int:
        return len(self.tokens)

    def text(self, ids: Sequence[int]) -> str:
        """The text of a token sequence. Blank and sos/eos are not text; `<unk>` is shown."""
        return self.spaced(ids).strip()

    def spaced(self, ids: Sequence[int]) -> str:
        """The text with a space before each word, also the first: those of consecutive sequences can be joined."""
        units = [self.tokens[i] for i in ids if i not in (BLANK, SOS_EOS)]
        if self.join == "words":
            return "".join(f" {unit}" for unit in units)
        return "".join(units).replace(WORD_START, " ")
