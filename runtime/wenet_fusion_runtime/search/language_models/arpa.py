"""Read ARPA files, the text format of n-gram language models."""

from __future__ import annotations

import codecs
import gzip
import zlib
from array import array
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

_GZIP = b"\x1f\x8b"
_LONGEST_LINE = 1 << 16  # bytes; longer than any line of an ARPA file
_LONGEST_PREAMBLE = 1000  # lines of text before \data\
_MOST_DIGITS = 15  # digits of a number of n-grams
_ZERO = -99.0  # the logarithm of 0 in ARPA files; -inf is read as -99
_TRUNCATED = "the file was cut off or written incompletely: copy it or train the model again"


class NgramTable(NamedTuple):
    """M n-grams of one order, in the order of the file. Logarithms are to the base 10, as in the file."""

    words: np.ndarray  # (M, order) int32, each word's position in `Arpa.words`
    log_probs: np.ndarray  # (M,) float32, at most 0
    backoffs: np.ndarray  # (M,) float32; 0 where the file has none
    first_line: int  # line of the first n-gram; the others follow without a gap


class Arpa(NamedTuple):
    """The contents of an ARPA file. Every word of an n-gram is a unigram."""

    words: tuple[str, ...]  # unigram i is word i
    tables: tuple[NgramTable, ...]  # orders 1 to N


def read_arpa(path: str | Path) -> Arpa:
    """Read an ARPA file, plain or compressed with gzip (recognised by its content).

    Dialects of other programs are accepted: text or a byte order mark before `\\data\\`, Windows line ends, spaces for
    tabs, -inf for -99, orders without n-grams, and backoff weights in the highest order if they are 0, as in KenLM.

    Reading 2.3 million n-grams of up to four words into an `NgramModel` takes about 3 s and 170 MiB.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is of another kind, is cut off, or a line is wrong; the message names the line and the
            remedy.
    """
    with open(path, "rb") as file:
        if file.peek(len(_GZIP))[: len(_GZIP)] != _GZIP:
            return _Reader(path, file).read()
        try:
            with gzip.open(file) as unpacked:
                return _Reader(path, unpacked).read()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: is damaged within its gzip compression ({error}); {_TRUNCATED}") from None


class _Reader:
    """Parses bytes, because only ASCII white space separates words; `str.split` would also split at other spaces."""

    def __init__(self, path: str | Path, file: BufferedIOBase) -> None:
        self._path = path
        self._file = file
        self._number = 0  # number of the line that was read last
        self._pending: bytes | None = None  # a line to return again

    def read(self) -> Arpa:
        counts = self._header()
        words: dict[bytes, int] = {}
        tables = []
        for order, count in enumerate(counts, start=1):
            self._expect(b"\\%d-grams:" % order, optional=not count)
            tables.append(self._table(order, count, words, has_backoff=order < len(counts)))
        self._expect(b"\\end\\")
        return Arpa(self._decoded(words, tables[0].first_line), tuple(tables))

    def _header(self) -> list[int]:
        """Return the number of n-grams of each order."""
        first, first_line = b"", 1
        line: bytes | None = (self._line() or b"").removeprefix(codecs.BOM_UTF8)
        while line is not None and line != b"\\data\\" and self._number <= _LONGEST_PREAMBLE:
            if not first:
                first, first_line = line, self._number
            line = self._line()
        if line != b"\\data\\":
            found = f"the file begins with {_shown(first)}" if first else "the file is empty"
            raise self._error(
                f"{found}, expected \\data\\; give an ARPA file (text, or compressed with gzip) "
                "or a binary file of KenLM",
                max(1, first_line),
            )
        counts: list[int] = []
        while line := self._line():
            if line.startswith(b"\\") and counts:
                self._pending = line
                break
            order, equals, count = line.removeprefix(b"ngram").partition(b"=")
            if not (
                line.startswith(b"ngram")
                and equals
                and order.strip() == b"%d" % (len(counts) + 1)
                and count.strip().isdigit()
                and len(count.strip()) <= _MOST_DIGITS
            ):
                raise self._error(f"expected 'ngram {len(counts) + 1}=COUNT', found {_shown(line)}")
            counts.append(int(count))
        if not counts or not counts[0]:
            raise self._error("\\data\\ announces no 1-grams; train the model again")
        return counts

    def _expect(self, header: bytes, optional: bool = False) -> None:
        """Raise ValueError unless the next non-empty line is `header`; an `optional` header may be missing."""
        line = self._line()
        while line == b"":
            line = self._line()
        if line is None:
            raise self._error(f"the file ends before {header.decode()}; {_TRUNCATED}")
        if optional and line != header:
            self._pending = line
            return
        if line != header:
            raise self._error(
                f"expected {header.decode()}, found {_shown(line)}; \\data\\ announces fewer n-grams, or "
                "the file was edited: train the model again"
            )

    def _table(self, order: int, count: int, words: dict[bytes, int], has_backoff: bool) -> NgramTable:
        """Read `count` n-grams; those of order 1 fill `words`."""
        first_line = self._number + 1
        widths = (order + 1, order + 2)
        numbers, log_probs, backoffs = array("i"), array("f"), array("f")
        number_of, found = words.__getitem__, 0
        for found, line in enumerate(islice(self._file, count), start=1):
            fields = line.split()
            try:
                if len(fields) not in widths:
                    raise IndexError
                if order == 1:
                    words.setdefault(fields[1], len(words))
                numbers.extend(map(number_of, fields[1 : order + 1]))
                log_probs.append(float(fields[0]))
                backoffs.append(float(fields[-1]) if len(fields) > order + 1 else 0.0)
            except (IndexError, KeyError, ValueError) as error:
                self._number += found
                raise self._error(self._problem(error, line, order, f"{found - 1} of {count} {order}-grams")) from None
        self._number += found
        if found < count:
            raise self._error(f"the file ends after {found} of {count} {order}-grams; {_TRUNCATED}")
        table = NgramTable(
            np.array(numbers, np.int32).reshape(count, order),
            _finite(np.array(log_probs, np.float32)),
            _finite(np.array(backoffs, np.float32)),
            first_line,
        )
        self._check_values(table, has_backoff)
        if order == 1:
            self._check_unigrams(table)
        return table

    def _problem(self, error: Exception, line: bytes, order: int, progress: str) -> str:
        """Return what is wrong with a line that should be an n-gram."""
        text = line.strip()
        if not line.endswith(b"\n"):
            return f"the file ends within this line, after {progress}; {_TRUNCATED}"
        if not text or text.startswith(b"\\"):
            return f"here are only {progress} that \\data\\ announces; {_TRUNCATED}"
        if isinstance(error, IndexError):
            return (
                f"{order}-grams have {order + 1} or {order + 2} columns (log-probability, {order} words, backoff "
                f"weight if any), found {len(text.split())}: {_shown(text)}; train the model again"
            )
        if isinstance(error, KeyError):
            return f"the word {_shown(error.args[0])} is no 1-gram; train the model again"
        return f"expected numbers before and after the words, found {_shown(text)}; train the model again"

    def _check_unigrams(self, table: NgramTable) -> None:
        """Raise ValueError for the first repeated word: it has the number of its first occurrence, not of its row."""
        repeated = table.words[:, 0] != np.arange(len(table.words))
        if repeated.any():
            row = int(repeated.argmax())
            raise self._error(
                f"this 1-gram is already in line {table.first_line + table.words[row, 0]}; train the model again",
                table.first_line + row,
            )

    def _check_values(self, table: NgramTable, has_backoff: bool) -> None:
        """Raise ValueError for the first value that is not the logarithm of a probability or of a weight."""
        finite = np.isfinite(table.backoffs)
        for name, limit, values, valid in (
            ("log-probability", "at most 0", table.log_probs, table.log_probs <= 0.0),
            ("backoff weight", "finite", table.backoffs, finite),
            (
                "backoff weight",
                "0 in the highest order",
                table.backoffs,
                finite if has_backoff else table.backoffs == 0,
            ),
        ):
            if not valid.all():
                row = int(valid.argmin())
                raise self._error(
                    f"{name} {values[row]:g} is not {limit}; train the model again", table.first_line + row
                )

    def _decoded(self, words: dict[bytes, int], first_line: int) -> tuple[str, ...]:
        """Return the words as text; their lines are consecutive, from `first_line`."""
        decoded = []
        for word in words:
            try:
                decoded.append(word.decode("utf-8"))
            except UnicodeDecodeError:
                raise self._error(
                    f"the word {_shown(word)} is not UTF-8; convert the file to UTF-8", first_line + len(decoded)
                ) from None
        return tuple(decoded)

    def _line(self) -> bytes | None:
        """Return the next line without white space at its ends; None at the end of the file."""
        if self._pending is not None:
            line, self._pending = self._pending, None
            return line
        line = self._file.readline(_LONGEST_LINE)
        self._number += bool(line)
        return line.strip() if line else None

    def _error(self, message: str, line: int | None = None) -> ValueError:
        return ValueError(f"{self._path}:{self._number if line is None else line}: {message}")


def _finite(logarithms: np.ndarray) -> np.ndarray:
    """Return the array with -inf replaced by -99, which ARPA files write for the logarithm of 0."""
    logarithms[np.isneginf(logarithms)] = _ZERO
    return logarithms


def _shown(text: bytes) -> str:
    """Return at most the first 60 bytes of a line as quoted text, with escapes for bytes that are not UTF-8."""
    shown = text[:60].decode("utf-8", errors="backslashreplace")
    return repr(shown + "..." * (len(text) > 60))
