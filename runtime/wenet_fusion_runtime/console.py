"""Help formatting, error messages and exit status, shared by all commands of the project."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import sys
import textwrap
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NoReturn

# Errors that a file, a value, a package or the machine causes, not a defect of the code.
USER_ERRORS = (ValueError, OSError, ImportError, MemoryError, RecursionError, OverflowError)
TRACEBACK_VARIABLE = "WENET_FUSION_TRACEBACK"
SHOWN = 100  # most characters shown of a value that comes from outside
_HIDDEN = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, surrogates, line and paragraph ends
_BIDIRECTIONAL = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # change the direction of text
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SPACE_REMEDY = "free some space, or name another place"
# Parts of out-of-memory messages: torch, numpy, onnxruntime and the C++ library have no common exception class.
_NO_MEMORY = (
    "out of memory",
    "allocate memory",
    "not enough memory",
    "bad allocation",
    "bad_alloc",
    "Storage size calculation overflowed",
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults in the help, and keep the indented lines of a description or an epilog as they are.

    A default is appended unless it is empty or the help text states it itself ("default: ...").

    >>> parser = argparse.ArgumentParser(prog="count", usage="count", add_help=False, formatter_class=HelpFormatter)
    >>> _ = parser.add_argument("--steps", type=int, default=3, help="number of steps")
    >>> print(parser.format_help().splitlines()[-1])
      --steps STEPS  number of steps (default: 3)
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help or "", action.default
        is_empty = default is None or default is False or default == []  # a default of 0 is shown
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
    """Call a command and return its exit status; print a user's error in one line.

    Args:
        command: function that returns an exit status.
        traceback: raise a user's error instead of printing it.

    Returns:
        The command's status; 1 after one of USER_ERRORS, if memory ran out, if standard output cannot be written, or
        if its reader (`head`, `less`) is gone; 130 after Ctrl-C. Other exceptions are defects and are raised; with
        WENET_FUSION_TRACEBACK=1 in the environment, a user's errors are raised too.
    """
    wants_traceback = traceback or os.environ.get(TRACEBACK_VARIABLE) == "1"
    try:
        with _threads_in_one_line():
            status = command()
        failure: Exception | None = None
    except BrokenPipeError:
        _discard_output()
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if wants_traceback or not (isinstance(error, USER_ERRORS) or is_out_of_memory(error)):
            raise
        status, failure = 1, error
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 1
    except OSError as error:
        _discard_output()
        status, failure = 1, OSError(error.errno, error.strerror, "standard output")
    if failure is not None:
        print_error(failure)
    return status


def print_error(error: BaseException) -> None:
    """Print `error: <message>` to standard error; see `error_text`."""
    print(f"error: {error_text(error)}", file=sys.stderr)


def error_text(error: BaseException) -> str:
    """Return the message of a user's error, with the path and without the number of an OSError.

    >>> error_text(OSError(28, "No space left on device", "talk.wav"))
    'talk.wav: No space left on device; free some space, or name another place'
    >>> error_text(MemoryError())
    'memory ran out; close other programs, or give less work at a time'
    """
    text = str(error)
    if is_out_of_memory(error):
        reason = text.splitlines()[0] if text else ""
        shown = f" ({reason})" if reason else ""
        return f"memory ran out{shown}; close other programs, or give less work at a time"
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return f"{text}; {_SPACE_REMEDY}" if error.errno in FULL_DISK else text
    if isinstance(error, RecursionError):
        return f"the input is nested too deeply ({text}); flatten it"
    if isinstance(error, OverflowError):
        return f"a number of the input is too large ({text}); give a smaller one"
    if "embedded null" in text:
        return f"a path holds a NUL character ({text}); take it out"
    return text


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, numpy, torch or onnxruntime says that memory could not be allocated.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    >>> is_out_of_memory(RuntimeError("shape mismatch"))
    False
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error) for part in _NO_MEMORY)
    )


@contextlib.contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Add the path and a remedy to the error of a full disk, which names neither."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise OSError(f"{path} cannot be written ({error.strerror}); {_SPACE_REMEDY}") from error


def unusable_package(package: str, missing: str, error: BaseException) -> ImportError:
    """Return the error to raise when a package cannot be imported.

    Args:
        package: the name that is imported.
        missing: message for a package that is not installed, with the command that installs it.
        error: exception of the import, which may also mean that memory or a shared library is missing.

    >>> str(unusable_package("torch", "needs torch: pip install torch", MemoryError("no memory")))
    'torch is installed, but cannot be imported: MemoryError: no memory'
    """
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package:
        return ImportError(missing)
    reason = " ".join(str(error).split())
    return ImportError(f"{package} is installed, but cannot be imported: {type(error).__name__}: {reason}")


def _discard_output() -> None:
    """Redirect standard output to the null device: Python flushes it at exit and would report the failure again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _threads_in_one_line() -> Iterator[None]:
    """Print a user's error that ends a thread, e.g. a full disk, as a one-line warning."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        error = arguments.exc_value
        if not isinstance(error, USER_ERRORS) or os.environ.get(TRACEBACK_VARIABLE) == "1":
            before(arguments)
        else:
            print(f"warning: {error_text(error)}", file=sys.stderr)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def visible(text: str, limit: int | None = None) -> str:
    """Return a text from outside with its control characters escaped, so that it cannot steer a terminal or a log.

    Args:
        text: any text.
        limit: characters to keep, counted before the escapes; "..." replaces the rest.

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

    If a file name is not UTF-8, standard output shows its bytes as escapes, as standard error does.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(exit_status(lambda: main(None)))
