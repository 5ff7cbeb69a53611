"""Text that changes in place at the bottom of a terminal. Knows no recognition."""

from __future__ import annotations

import os
import shutil
import unicodedata
from typing import NamedTuple, TextIO

_DIM, _PLAIN = "\033[2m", "\033[0m"


class Piece(NamedTuple):
    """Text in one style."""

    text: str
    dim: bool = False


def cells(char: str) -> int:
    """Columns that a terminal gives to a character: 2 to East Asian wide ones, 0 to those that sit on others."""
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def rows(pieces: tuple[Piece, ...], columns: int) -> list[str]:
    """The pieces one after another, broken where a terminal of so many columns breaks a line; each row has its style."""
    found, free = [""], columns
    for piece in (piece for piece in pieces if piece.text):
        found[-1] += _DIM * piece.dim
        for char in _printable(piece.text):
            width = cells(char)
            if width > free:
                found[-1] += _PLAIN * piece.dim
                found.append(_DIM * piece.dim)
                free = columns
            found[-1] += char
            free -= width
        found[-1] += _PLAIN * piece.dim
    return found


def is_terminal(out: TextIO) -> bool:
    """Whether text can be changed in place."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


class LiveLine:
    """One line, of as many rows as it needs, that is drawn again and again; what was ended stays.

    A terminal that becomes narrower may break the drawn rows anew, in a way that cannot be known: then pieces of the
    old line may stay above the new one, but no ended line is ever erased.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._drawn: list[str] = []
        if os.name == "nt":
            os.system("")  # switches on the escape sequences of Windows' console

    def draw(self, *pieces: Piece) -> None:
        """Show these pieces in place of the line shown; of a line that is higher than the terminal its end."""
        columns, lines = self._size()
        new = rows(pieces, columns)[-max(1, lines - 1) :]
        if new != self._drawn:
            self._write(self._erased() + "\r\n".join(new))
            self._drawn = new

    def clear(self) -> None:
        """Remove the line."""
        if self._drawn:
            self._write(self._erased())
        self._drawn = []

    def end(self, text: str) -> None:
        """Put a text for good in place of the line; the terminal breaks it as it likes."""
        self._write(self._erased() + _printable(text) + "\n")
        self._drawn = []

    def _erased(self) -> str:
        if not self._drawn:
            return ""
        up = len(self._drawn) - 1
        return (f"\033[{up}A" if up else "") + "\r\033[J"

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def _size(self) -> tuple[int, int]:
        """Columns and lines now."""
        try:
            size = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            size = os.terminal_size((0, 0))
        return size if size.columns and size.lines else shutil.get_terminal_size()


def _printable(text: str) -> str:
    return "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
