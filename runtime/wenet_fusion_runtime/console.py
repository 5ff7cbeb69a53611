"""Help, errors and exit status, alike in every command of the project."""

from __future__ import annotations

import argparse
import io
import os
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NoReturn

USER_ERRORS = (ValueError, OSError, ImportError)  # errors that a user can mend
TRACEBACK_VARIABLE = "WENET_FUSION_TRACEBACK"
SHOWN = 100  # characters of a value that comes from outside
_HIDDEN = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, surrogates, line and paragraph ends
_BIDIRECTIONAL = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # reorder what is read


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Format help with defaults, and with indented lines of a description or an epilog kept as they are.

    A default is appended unless it is empty or the help text states it itself ("default: ...").

    >>> parser = argparse.ArgumentParser(prog="count", usage="count", add_help=False, formatter_class=HelpFormatter)
    >>> _ = parser.add_argument("--steps", type=int, default=3, help="number of steps")
    >>> print(parser.format_help().splitlines()[-1])
      --steps STEPS  number of steps (default: 3)
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help or "", action.default
        is_empty = default is None or default is False or default == []  # 0 is none of these
        if is_empty or "default:" in text or "default)" in text:
            return action.help
        return super()._get_help_string(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = []
        for is_kept, lines in groupby(text.splitlines(), lambda line: not line.strip() or line.startswith(" ")):
            if is_kept:
                parts += [f"{indent}{line}".rstrip() for line in lines]
            else:
                parts += textwrap.wrap(" ".join(lines), width, initial_indent=indent, subsequent_indent=indent)
        return "\n".join(parts)


def exit_status(command: Callable[[], int], traceback: bool = False) -> int:
    """Call a command and return its exit status; a user's error is printed in one line.

    Args:
        command: function that returns an exit status.
        traceback: raise the user's errors too.

    Returns:
        What the command returns; 1 after one of USER_ERRORS, or if the reader of standard output (`head`, `less`) is
        gone; 130 after Ctrl-C. Other exceptions are defects and raised, as is everything if the environment variable
        WENET_FUSION_TRACEBACK is 1.
    """
    try:
        return command()
    except BrokenPipeError:
        # Otherwise Python reports the closed pipe once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        if traceback or os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        print_error(error)
        return 1


def print_error(error: Exception) -> None:
    """Print `error: <message>` to standard error; of an error of the system without its number."""
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    print(f"error: {text}", file=sys.stderr)


def visible(text: str, limit: int | None = None) -> str:
    """Return a text from outside with its control characters escaped, so that it cannot steer a terminal or a log.

    Args:
        text: may contain anything.
        limit: longest result in characters, about; the rest is replaced by "...".

    >>> print(visible("two\\nlines, \\x1b[31mred"))
    two\\nlines, \\x1b[31mred
    >>> visible("x" * 1000, limit=5)
    'xxxxx...'
    """
    kept = text if limit is None or len(text) <= limit else text[:limit] + "..."
    if kept.isascii() and kept.isprintable():
        return kept
    return "".join(
        ascii(letter)[1:-1] if unicodedata.category(letter) in _HIDDEN or letter in _BIDIRECTIONAL else letter
        for letter in kept
    )


def run_main(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Call `main(None)`, which parses the command line, and exit with its status: see `exit_status`.

    File names that are not UTF-8 are printed with escapes, as standard error does.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(exit_status(lambda: main(None)))
