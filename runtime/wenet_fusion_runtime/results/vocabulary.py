"""The vocabulary, which turns token ids into text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

BLANK = 0
UNKNOWN = 1
SOS_EOS = 2
RESERVED = ("<blank>", "<unk>", "<sos/eos>")
JOINS = ("words", "pieces")
WORD_START = "\u2581"  # sentencepiece's mark of a word's start
# First and last characters of scripts without spaces between words: Han with its marks, Hiragana, Katakana.
_UNSPACED = (
    ("\u3005", "\u3007"),
    ("\u3040", "\u30ff"),
    ("\u31f0", "\u31ff"),
    ("\u3400", "\u4dbf"),
    ("\u4e00", "\u9fff"),
    ("\uf900", "\ufaff"),
    ("\uff66", "\uff9d"),
    ("\U00020000", "\U0003ffff"),
)


def is_unspaced(character: str) -> bool:
    """Return whether a character belongs to Chinese or Japanese, which are written without spaces between words."""
    return character >= "\u3005" and any(first <= character <= last for first, last in _UNSPACED)


class Vocabulary:
    """The tokens of a model in the order of their ids, and the rule that joins them into text.

    Args:
        tokens: the tokens; ids 0, 1 and `sos_eos` are `<blank>`, `<unk>` and `<sos/eos>`.
        join: "words" puts a space between tokens; "pieces" concatenates them and turns the mark U+2581 into a space.
        source: the file of the tokens, for error messages.
        sos_eos: the id of `<sos/eos>`, which is the last token in older vocabularies of WeNet.
    Raises:
        ValueError: reserved tokens are missing, a token occurs twice, or `join` is neither "words" nor "pieces".

    >>> Vocabulary(["<blank>", "<unk>", "<sos/eos>", "one", "two"], "words").text([3, 4])
    'one two'
    """

    def __init__(
        self, tokens: Sequence[str], join: str, source: str = "the vocabulary", sos_eos: int = SOS_EOS
    ) -> None:
        self.tokens = tuple(tokens)
        self.join = join
        self.source = source
        self.textless = (BLANK, sos_eos)  # ids without text
        self.reserved = frozenset((BLANK, UNKNOWN, sos_eos))
        self.marked = any(WORD_START in token for token in self.tokens)  # whether pieces mark where words begin
        self._ids = {token: number for number, token in enumerate(self.tokens)}
        found = [self.tokens[number] for number in (BLANK, UNKNOWN, sos_eos) if number < len(self.tokens)]
        if found != list(RESERVED):
            raise ValueError(f"{source}: the tokens 0, 1, {sos_eos} must be {', '.join(RESERVED)}, found {found}")
        if len(self._ids) != len(self.tokens):
            twice = sorted({token for number, token in enumerate(self.tokens) if self._ids[token] != number})
            raise ValueError(f"{source}: tokens that occur more than once: {twice[:10]}")
        if join not in JOINS:
            raise ValueError(f"{source}: unknown rule to join tokens '{join}'; known: {', '.join(JOINS)}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and (self.tokens, self.join) == (other.tokens, other.join)

    def __hash__(self) -> int:
        return hash((self.tokens, self.join))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the tokens, joined by NUL characters, in hexadecimal digits."""
        return hashlib.sha256("\0".join(self.tokens).encode("utf-8", "surrogatepass")).hexdigest()

    def id(self, token: str) -> int | None:
        """Return the id of a token; None if it is unknown or one of the three reserved tokens."""
        number = self._ids.get(token)
        return None if number is None or number in self.reserved else number

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of a token sequence. Blank and sos/eos are left out; `<unk>` is shown."""
        return self.spaced(ids).strip()

    def spaced(self, ids: Sequence[int]) -> str:
        """Return the text with its outer spaces, so that the texts of consecutive sequences can be joined."""
        texts = [self.tokens[i] for i in ids if i not in self.textless]
        if self.join == "words":
            return "".join(f" {text}" for text in texts)
        return "".join(texts).replace(WORD_START, " ")
