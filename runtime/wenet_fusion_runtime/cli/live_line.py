"""Show text that changes in place at the bottom of a terminal."""

from __future__ import annotations

import os
import shutil
import unicodedata
from typing import NamedTuple, TextIO

from wenet_fusion_runtime.results.display_width import display_width

_DIM, _PLAIN = "\033[2m", "\033[0m"


class Piece(NamedTuple):
    """Text in one style.

    >>> Piece("may change", dim=True).dim
    True
    """

    text: str
    dim: bool = False


def rows(pieces: tuple[Piece, ...], columns: int) -> list[str]:
    """Return the rows into which a terminal of `columns` breaks the pieces, each with its style.

    >>> rows((Piece("hello"),), columns=4)
    ['hell', 'o']
    """
    found, free = [""], columns
    for piece in (piece for piece in pieces if piece.text):
        found[-1] += _DIM * piece.dim
        for char in _printable(piece.text):
            width = display_width(char)
            if width > free:
                found[-1] += _PLAIN * piece.dim
                found.append(_DIM * piece.dim)
                free = columns
            found[-1] += char
            free -= width
        found[-1] += _PLAIN * piece.dim
    return found


def is_terminal(out: TextIO) -> bool:
    """Return whether text can be changed in place."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


class LiveLine:
    """A line of one or more rows that is redrawn in place until `end` makes it final.

    A terminal that becomes narrower may wrap the drawn rows again. Then parts of the old line may stay above the new
    line, but a final line is never erased.

    >>> import sys
    >>> line = LiveLine(sys.stdout)
    >>> line.end("final text")
    final text
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._drawn: list[str] = []
        if os.name == "nt":
            os.system("")  # turns on escape sequences in Windows' console

    def draw(self, *pieces: Piece) -> None:
        """Replace the line by these pieces; if it would fill the terminal, show only its last rows."""
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
        """Replace the line by final text, and begin a new line."""
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
        """Return the current columns and lines of the terminal."""
        try:
            size = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            size = os.terminal_size((0, 0))
        return size if size.columns and size.lines else shutil.get_terminal_size()


def _printable(text: str) -> str:
    return "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
