"""The output of the command `client`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from wenet_fusion_runtime.cli.live_line import LiveLine, Piece, is_terminal
from wenet_fusion_runtime.results.result import Word
from wenet_fusion_runtime.results.words import joined_words

if TYPE_CHECKING:
    from wenet_fusion_runtime.server.websocket.client_session import ServerResult, Timing


class ClientDisplay:
    """Prints the results of one recording.

    Args:
        name: text at the beginning of each line; None: no text.
        prints_partials: print each new partial text on a line of its own.

    >>> from wenet_fusion_runtime.server.websocket.client_session import ServerResult
    >>> display = ClientDisplay(None, prints_partials=False)
    >>> display.result(ServerResult(True, "ONE", (("ONE", True),), 1, None))
    >>> display.abandon()
    ONE
    """

    def __init__(self, name: str | None, prints_partials: bool) -> None:
        self._prefix = "" if name is None else f"{name}\t"
        self._label = "" if name is None else f"{name}: "
        self._prints_partials = prints_partials
        self._line = LiveLine(sys.stdout) if is_terminal(sys.stdout) and not prints_partials else None
        self._words: list[Word] = []  # of closed segments
        self._shown = ""

    def result(self, found: ServerResult) -> None:
        """Show a result from the server."""
        words = [Word(text, 0.0, 0.0, 1.0, spaced) for text, spaced in found.words] or (
            [Word(found.text, 0.0, 0.0, 1.0)] if found.text else []
        )  # WeNet's server sends no words
        if found.is_final and joined_words(words) != found.text and found.text:
            words = [Word(found.text, 0.0, 0.0, 1.0)]  # the server's formatter has changed the text
        if found.is_final:
            self._words += words
        open_words = [] if found.is_final else words
        text = joined_words([*self._words, *open_words])
        if text == self._shown:
            return
        self._shown = text
        if self._line is not None:
            committed = joined_words([*self._words, *open_words[: found.committed]])
            self._line.draw(Piece(self._prefix.replace("\t", " ") + committed), Piece(text[len(committed) :], dim=True))
        elif self._prints_partials:
            print(f"{self._prefix}... {text}", flush=True)

    def note(self, text: str) -> None:
        """Print a line about the connection on standard error."""
        self._clear()
        print(f"{self._label}{text}", file=sys.stderr, flush=True)

    def end(self, timing: Timing, is_fast: bool) -> None:
        """Print the whole text and the delays."""
        self._clear()
        print(self._prefix + joined_words(self._words), flush=True)
        parts = [f"{timing.audio:.1f} s of audio"]
        if timing.delays and not is_fast:
            median, most = np.quantile(timing.delays, (0.5, 0.95))
            parts.append(
                f"text {median:.3f} s behind it (median; 95 % within {most:.3f} s, longest {max(timing.delays):.3f} s)"
            )
        parts.append(f"last text {timing.ending:.3f} s after the end")
        print(self._label + ", ".join(parts), file=sys.stderr, flush=True)

    def abandon(self) -> None:
        """Print the text so far, because the recording failed."""
        self._clear()
        if self._words:
            print(self._prefix + joined_words(self._words), flush=True)

    def _clear(self) -> None:
        if self._line is not None:
            self._line.clear()
