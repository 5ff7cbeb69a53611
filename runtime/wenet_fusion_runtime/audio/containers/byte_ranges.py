"""Read ranges of bytes of an open file, either as files of their own or through a buffer for scanning."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Buffer

_WINDOW = 1 << 17  # bytes read at once
_ENDLESS = 1 << 40  # bytes; larger than any file


class Link(NamedTuple):
    """The byte range of one of several consecutive streams in a file.

    >>> Link(start=0, end=9000).frames is None
    True
    """

    start: int
    end: int
    frames: int | None = None  # samples per channel; None if counting them needs a decoder
    is_endless: bool = False  # state a huge number of bytes; from the real one, decoders would derive a wrong length
    parts: tuple[tuple[int, int], ...] = ()  # the ranges that a decoder needs; empty: all bytes


class FileRange(io.RawIOBase):
    """A read-only view of the bytes `start` to `end` of an open file. Do not read from that file at the same time.

    Args:
        file: open, seekable file.
        start: first byte.
        end: byte after the last one.
        is_endless: report a far larger size; see `Link`.
        closes: `close` also closes `file`.

    >>> FileRange(io.BytesIO(b"abcdef"), 2, 5).read()
    b'cde'
    """

    def __init__(self, file: BinaryFile, start: int, end: int, is_endless: bool = False, closes: bool = False) -> None:
        self._file, self._start, self._size, self._position = file, start, end - start, 0
        self._stated = _ENDLESS if is_endless else self._size
        self._closes = closes

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.IOBase`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stated}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """See `io.IOBase`."""
        return self._position

    def read(self, count: int = -1) -> bytes:
        """See `io.RawIOBase`."""
        if self._stated == _ENDLESS and self._position >= _ENDLESS - _WINDOW:  # libsndfile looks for a tag at the end
            return bytes(max(0, min(count, _ENDLESS - self._position)))
        left = self._size - self._position
        if left <= 0:  # damaged headers may point far beyond the end, where the system cannot seek
            return b""
        data = self._read_at(self._position, left if count < 0 else min(count, left))
        self._position += len(data)
        return data

    def _read_at(self, position: int, count: int) -> bytes:
        self._file.seek(self._start + position)
        return self._file.read(count)

    def readinto(self, buffer: Buffer) -> int:
        """See `io.RawIOBase`."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close this file, and also the underlying file if `closes` is set."""
        if self._closes:
            self._file.close()
        super().close()


class FileParts(FileRange):
    """A read-only file that joins several ranges of bytes of an open file; see `FileRange`.

    Args:
        file: open, seekable file.
        parts: start and end of each range.
        is_endless: report a far larger size; see `Link`.

    >>> FileParts(io.BytesIO(b"abcdefgh"), [(1, 3), (5, 7)]).read()
    b'bcfg'
    """

    def __init__(self, file: BinaryFile, parts: Sequence[tuple[int, int]], is_endless: bool = False) -> None:
        self._ends = list(accumulate(end - start for start, end in parts))
        super().__init__(file, 0, self._ends[-1], is_endless)
        self._parts = parts

    def _read_at(self, position: int, count: int) -> bytes:
        found = []
        while count > 0 and position < self._ends[-1]:
            index = bisect_right(self._ends, position)
            left = self._ends[index] - position
            self._file.seek(self._parts[index][1] - left)
            data = self._file.read(min(count, left))
            if not data:
                break
            found.append(data)
            position, count = position + len(data), count - len(data)
        return b"".join(found)


BinaryFile = BinaryIO | FileRange


class Borrowed:
    """A wrapper of a file. Its `close` does nothing, because only the owner of the file closes it.

    >>> file = io.BytesIO(b"abc")
    >>> Borrowed(file).close()
    >>> Borrowed(file).read()
    b'abc'
    """

    def __init__(self, file: BinaryFile) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def close(self) -> None:
        """Do nothing."""


class Window:
    """Read bytes anywhere in a file, through a buffer that holds neighbouring bytes.

    Args:
        file: open, seekable file.

    >>> window = Window(io.BytesIO(b"abcdef"))
    >>> window.size, window.look(4, 9), window.find(b"cd", 0)
    (6, b'ef', 2)
    """

    def __init__(self, file: BinaryFile) -> None:
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        self._begin, self._bytes = 0, b""

    def look(self, position: int, count: int) -> bytes:
        """Return `count` bytes (at most 128 KiB) from `position` on; fewer at the end of the file."""
        at = position - self._begin
        if at < 0 or at + count > len(self._bytes):
            self._begin, at = position, 0
            self._file.seek(position)
            self._bytes = self._file.read(_WINDOW)
        return self._bytes[at : at + count]

    def find(self, wanted: bytes, position: int) -> int:
        """Return the position of the first `wanted` at or after `position`, or -1."""
        while position + len(wanted) <= self.size:
            self.look(position, len(wanted))
            at = self._bytes.find(wanted, position - self._begin)
            if at >= 0:
                return self._begin + at
            position = self._begin + len(self._bytes) - len(wanted) + 1
        return -1
