"""Refuse unmasked WebSocket frames from clients, which RFC 6455 (section 5.1) forbids but aiohttp accepts."""

from __future__ import annotations

from typing import Protocol

_MASKED = 0x80  # bit of a header's second byte
_LENGTH_BYTES = {126: 2, 127: 8}  # bytes of the extended length, by the length in the second byte
_MASK_BYTES = 4
_FORBIDDEN = b"\xf0\x80"  # a header with reserved bits, which every parser reports as a protocol error


class FrameParser(Protocol):
    """Parses frames for aiohttp's protocol."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Parse data; return whether the stream is over, and the data after its end."""

    def feed_eof(self) -> None:
        """End the stream."""


class MaskedFrames:
    """Reads the headers of frames, and passes the first unmasked frame to the parser as a protocol error.

    Args:
        parser: receives the frames.

    >>> class Printer:
    ...     def feed_data(self, data: bytes) -> tuple[bool, bytes]:
    ...         print(data)
    ...         return False, b""
    ...     def feed_eof(self) -> None: ...
    >>> frames = MaskedFrames(Printer())
    >>> _ = frames.feed_data(b"\\x81\\x82MASKhi"), frames.feed_data(b"\\x81\\x02hi")
    b'\\x81\\x82MASKhi'
    b'\\xf0\\x80'
    """

    def __init__(self, parser: FrameParser) -> None:
        self._parser = parser
        self._rest = b""  # the beginning of a header
        self._skip = 0  # bytes until the next header

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Parse data; see `FrameParser`."""
        data, self._rest, at = self._rest + data, b"", self._skip
        while at < len(data):
            header = data[at : at + 10]
            size = 2 + _LENGTH_BYTES.get(header[1] & 127, 0) if len(header) > 1 else 2
            if len(header) > 1 and not header[1] & _MASKED:
                return self._parser.feed_data(data[:at] + _FORBIDDEN)
            if len(header) < size:
                data, self._rest = data[:at], header
                break
            length = header[1] & 127 if size == 2 else int.from_bytes(header[2:size], "big")
            at += size + _MASK_BYTES + length
        self._skip = at - len(data)
        return self._parser.feed_data(data)

    def feed_eof(self) -> None:
        """End the stream."""
        self._parser.feed_eof()
