"""Read the header of a WAV file or stream, and compare the size that it states with the available bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from wenet_fusion_runtime.audio.sample_formats import check_format, is_plain

SIZE_UNKNOWN = 0x7FFF0000  # bytes; programs that write WAV to a pipe state a size of 0 or about 2 or 4 GiB
MAGIC = (b"RIFF", b"RF64", b"BW64")
_EXTENSIBLE = 0xFFFE  # a format tag: the real one is further on in the chunk
_SIZE_IN_DS64 = 0xFFFFFFFF  # a stated size: the real one, in 64 bits, is in the chunk ds64
MOST_CHUNKS = 1000  # most chunks before or after the samples; programs write up to about twenty
_PIECE = 1 << 16  # bytes of a chunk that are read at once


class WavHeader(NamedTuple):
    """The format of the samples, from the chunks before them.

    >>> header = WavHeader(tag=1, channels=2, sample_rate=8000, block=4, offset=44, stated=0)
    >>> header.width, header.data_bytes(available=400), header.data_bytes(available=None)
    (2, 400, None)
    """

    tag: int  # format tag of the samples
    channels: int
    sample_rate: int  # Hz
    block: int  # bytes of a frame, or of a compressed block
    offset: int  # bytes before the samples
    stated: int  # stated bytes of samples; 0 or at least SIZE_UNKNOWN if the writer did not know their number

    @property
    def width(self) -> int:
        """Bytes per sample; 0 if the samples are compressed or packed."""
        return 0 if self.block % self.channels else self.block // self.channels

    @property
    def is_plain(self) -> bool:
        """True if the samples are uncompressed and `from_bytes` can convert them."""
        return is_plain(self.tag, self.width)

    def data_bytes(self, available: int | None) -> int | None:
        """Return the number of bytes of samples; None if it is known only at the end of a pipe.

        Args:
            available: number of bytes after the header; None for a pipe.
        """
        if 0 < self.stated < SIZE_UNKNOWN or (available is not None and 0 < self.stated <= available):
            return self.stated
        return available


def is_wav(head: bytes) -> bool:
    """Return whether the first 12 bytes are those of a WAV file."""
    return head[:4] in MAGIC and head[8:12] == b"WAVE"


def read_wav_header(read: Callable[[int], bytes]) -> WavHeader:
    """Read the chunks after the first 12 bytes, up to the samples.

    Args:
        read: `read(count)` returns the next `count` bytes; fewer at the end.
    Raises:
        ValueError: the header is damaged or cut off, or states an impossible sample rate or number of channels.
    """
    offset, size64, found = 12, 0, None
    for _ in range(MOST_CHUNKS):
        kind, size = struct.unpack("<4sI", read(8).ljust(8, b"\xff"))
        offset += 8
        if kind == b"data" and found is not None:
            tag, channels, rate, block = found
            return WavHeader(tag, channels, rate, block, offset, size64 if size == _SIZE_IN_DS64 else size)
        content, left = read(min(size, _PIECE)), size + size % 2
        left -= len(content)
        while left and (piece := read(min(left, _PIECE))):
            left -= len(piece)
        if left or (kind == b"fmt " and size < 16) or (kind == b"ds64" and size < 16):
            raise ValueError("its WAV header is damaged or cut off")
        offset += size + size % 2
        if kind == b"ds64":
            (size64,) = struct.unpack("<Q", content[8:16])
        elif kind == b"fmt ":
            tag, channels, rate, _, block, bits = struct.unpack("<HHIIHH", content[:16])
            try:
                check_format(rate, channels)
            except ValueError as error:
                raise ValueError(f"its WAV header is wrong: {error}") from None
            if tag == _EXTENSIBLE and len(content) >= 26:
                (tag,) = struct.unpack("<H", content[24:26])
            found = tag, channels, rate, block or channels * -(-bits // 8)
    raise ValueError(f"its WAV header has more than {MOST_CHUNKS} chunks")


def next_samples(read: Callable[[int], bytes], skip: Callable[[int], object]) -> tuple[bytes, int]:
    """Skip chunks up to the next one with samples, or up to a WAV file that was joined to this one.

    Args:
        read: see `read_wav_header`.
        skip: `skip(count)` skips the next `count` bytes.
    Returns:
        "data" or one of MAGIC, and the size that the chunk states; at the end b"" and 0.
    """
    for _ in range(MOST_CHUNKS):
        kind, size = struct.unpack("<4sI", read(8).ljust(8, b"\0"))
        if (kind == b"data" and size) or kind in MAGIC:
            return kind, size
        if kind == bytes(4):
            break
        skip(size + size % 2)
    return b"", 0


def read_following_header(read: Callable[[int], bytes], header: WavHeader, unread: int = 0) -> WavHeader | None:
    """Read a pipe up to its next samples, in another chunk or in a WAV file that was joined to this one.

    Args:
        read: see `read_wav_header`.
        header: header of the samples that were read.
        unread: number of bytes of these samples that were not read.
    Returns:
        The header of the next samples, with their size; None at the end of the pipe.
    Raises:
        ValueError: see `read_wav_header`.
    """

    def skip(count: int) -> None:
        while count and (piece := read(min(count, _PIECE))):
            count -= len(piece)

    skip(unread + header.stated % 2)
    kind, size = next_samples(read, skip)
    if kind == b"data":
        return header._replace(stated=size)
    return read_wav_header(read) if kind and read(4) == b"WAVE" else None
