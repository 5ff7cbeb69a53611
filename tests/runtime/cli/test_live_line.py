"""The line that changes in place, drawn on a terminal emulator of any width."""

import io
import os
from collections.abc import Iterator

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wenet_fusion_runtime.cli.live_line import LiveLine, Piece, is_terminal, rows
from wenet_fusion_runtime.results.display_width import display_width


class Terminal(io.StringIO):
    """A screen that shows what is written."""

    def __init__(self, columns: int, lines: int = 12) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self._stream = pyte.Stream(self.screen)

    def write(self, text: str) -> int:
        self._stream.feed(text.replace("\n", "\r\n").replace("\r\r", "\r"))  # as a tty does
        return len(text)

    def fileno(self) -> "Terminal":
        """Return the descriptor whose size the system is asked for."""
        return self

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)

    def shown(self) -> list[str]:
        """Return all rows with text, rows that have left the screen first; a wide character appears once."""
        above = ["".join(row[column].data for column in sorted(row)) for row in self.screen.history.top]
        return [row.rstrip() for row in [*above, *self.screen.display] if row.strip()]


@pytest.fixture(autouse=True, scope="module")
def sizes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        size = lambda terminal: os.terminal_size((terminal.screen.columns, terminal.screen.lines))
        patch.setattr(os, "get_terminal_size", size)
        yield


@pytest.fixture
def terminal() -> Terminal:
    return Terminal(20)


def test_text_is_replaced_and_ended_lines_stay(terminal: Terminal) -> None:
    line = LiveLine(terminal)
    for text in ("one", "one two", "one", "one three"):
        line.draw(Piece(text))
        assert terminal.shown() == [text]
    line.end("won three.")
    line.draw(Piece("next"))
    assert terminal.shown() == ["won three.", "next"]
    line.clear()
    assert terminal.shown() == ["won three."]


TEXTS = st.text("ab é漢字ｱ한", max_size=70)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), st.integers(2, 30))
def test_any_texts_at_any_width_are_drawn_and_erased_exactly(texts: list[tuple[str, str]], columns: int) -> None:
    """Law: earlier text leaves no trace."""
    terminal, fresh = Terminal(columns, 200), Terminal(columns, 200)
    line = LiveLine(terminal)
    for committed, rest in texts:
        line.draw(Piece(committed), Piece(rest, dim=True))
    LiveLine(fresh).draw(Piece(texts[-1][0]), Piece(texts[-1][1], dim=True))
    assert terminal.screen.display == fresh.screen.display
    assert (terminal.screen.cursor.x, terminal.screen.cursor.y) == (fresh.screen.cursor.x, fresh.screen.cursor.y)
    line.end("x" * columns * 2)
    assert terminal.shown() == ["x" * columns] * 2


@settings(deadline=None, max_examples=60)
@given(st.text("ab éｱ", max_size=70), st.text("漢字한", max_size=35), st.integers(2, 30))
def test_rows_break_where_a_terminal_breaks(narrow: str, wide: str, columns: int) -> None:
    """So no text moves when a line is ended."""
    for text, width in ((narrow, columns), (wide, columns + columns % 2)):
        drawn, ended = Terminal(width, 100), Terminal(width, 100)
        drawn.write("\r\n".join(rows((Piece(text),), width)))
        ended.write(text)
        assert drawn.screen.display == ended.screen.display
    # The emulator cuts a wide character that does not fit; real terminals put it on the next row.
    assert rows((Piece("a字b"),), 2) == ["a", "字", "b"]


def test_committed_text_is_plain_and_the_rest_dim(terminal: Terminal) -> None:
    assert rows((Piece("ab"), Piece("cdef", dim=True)), 4) == ["ab\033[2mcd\033[0m", "\033[2mef\033[0m"]
    assert rows((Piece(""), Piece("", dim=True)), 4) == [""]
    assert rows((Piece("abcde\u0301f"),), 5) == ["abcde\u0301", "f"]  # an accent needs no room of its own


def test_a_line_higher_than_the_terminal_shows_its_end(terminal: Terminal) -> None:
    terminal.resize(10, 4)
    line = LiveLine(terminal)
    line.end("kept")
    text = "".join(f"row {number:05d}." for number in range(7))
    for count in range(1, len(text) + 1):
        line.draw(Piece(text[:count]))
    assert terminal.shown() == ["kept", "row 00004.", "row 00005.", "row 00006."]
    line.end(text)
    assert terminal.shown() == ["kept", *(f"row {number:05d}." for number in range(7))]


@pytest.mark.parametrize("columns", [7, 11, 19, 20, 21, 33, 60])
def test_a_resize_erases_no_ended_line(terminal: Terminal, columns: int) -> None:
    line = LiveLine(terminal)
    line.end("first")
    line.end("second")
    line.draw(Piece("three four five six seven eight"))
    terminal.resize(columns, 12)
    line.draw(Piece("three four five six seven eight nine"))
    line.end("done")
    assert terminal.shown() == ["first", "second", "done"]  # this emulator does not wrap rows again


def test_the_same_text_is_not_drawn_twice(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    line = LiveLine(terminal)
    line.draw(Piece("text"))
    monkeypatch.setattr(terminal, "write", lambda text: pytest.fail("drawn again"))
    line.draw(Piece("text"))


def test_control_characters_do_not_reach_the_terminal(terminal: Terminal) -> None:
    line = LiveLine(terminal)
    line.end("kept")
    line.draw(Piece("a\033[2Jb\r\x07c"))
    line.end("a\033[1A\033[Jb")
    assert terminal.shown() == ["kept", "a [1A [Jb"]


def test_widths_of_characters_agree_with_the_terminal() -> None:
    chars = "aé漢ｱＡ한ひカ。ア\u0301\u200dก\u0e31я한ß\u00ad\u1112\u1161\u11ab"
    wanted = [pyte.screens.wcwidth(char) for char in chars]
    assert [display_width(char) for char in chars] == wanted and set(wanted) == {0, 1, 2}


def test_files_and_dumb_terminals_are_no_terminals(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_terminal(terminal)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert is_terminal(terminal)
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(terminal)
