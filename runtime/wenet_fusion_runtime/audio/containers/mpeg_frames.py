"""The frames of MPEG audio (mp3): where streams begin and end, and their lengths.

Decoders estimate the length of a variable bit rate from the first frames, or take it from the first frame. This module
counts all frames.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from wenet_fusion_runtime.audio.containers.byte_ranges import Link, Window

# kbit/s by index, for MPEG 1 layers I to III, and MPEG 2 layers I, and II and III.
_RATES_1 = (
    (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_RATES_2 = (
    (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_SAMPLE_RATES = (44100, 48000, 32000)  # of MPEG 1; halved in 2, quartered in 2.5
_SYNC_BYTES = 6000  # at least three frames
_HEAD_BYTES = 48  # of a frame, up to the mark of an encoder's notes
_NOTES_BYTES = 192
_MARKS = (b"Xing", b"Info", b"VBRI")


class Frame(NamedTuple):
    """A frame header.

    >>> parse_frame(bytes([0xFF, 0xFB, 0x90, 0x00]))
    Frame(size=417, samples=1152, kind=(3, 3, 44100, False))
    """

    size: int  # bytes, header included
    samples: int  # per channel
    kind: tuple[int, int, int, bool]  # version, layer, sample rate, whether mono: constant in a stream


def parse_frame(header: bytes) -> Frame | None:
    """Return the frame that these 4 bytes begin, None if they begin none (or one of free format)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    return _parse(header[1], header[2], header[3] >> 6 == 3)


@lru_cache(maxsize=4096)
def _parse(first: int, second: int, is_mono: bool) -> Frame | None:
    version, layer = first >> 3 & 3, 4 - (first >> 1 & 3)  # version 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5
    rate_index, frequency, padding = second >> 4, second >> 2 & 3, second >> 1 & 1
    if version == 1 or layer == 4 or not 1 <= rate_index <= 14 or frequency == 3:
        return None
    kbits = (_RATES_1[layer - 1] if version == 3 else _RATES_2[layer > 1])[rate_index - 1]
    sample_rate = _SAMPLE_RATES[frequency] >> (3 - version if version else 2)
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    size = samples // 8 * 1000 * kbits // sample_rate + padding
    if layer == 1:
        size = (12000 * kbits // sample_rate + padding) * 4
    return Frame(size, samples, (version, layer, sample_rate, is_mono))


def is_mpeg(data: bytes) -> bool:
    """Return whether three frames of one kind follow each other from the first byte on."""
    position, kinds = 0, set()
    for _ in range(3):
        frame = parse_frame(data[position : position + 4])
        if frame is None:
            return False
        kinds.add(frame.kind)
        position += frame.size
    return len(kinds) == 1


class _Stream:
    """The frames of one stream, counted as they are found."""

    def __init__(self, start: int, frame: Frame, notes: tuple[int, int] | None) -> None:
        self.kind = frame.kind
        self._start, self._notes, self._count, self._frame = start, notes, 0, frame

    def add(self) -> None:
        self._count += 1

    def link(self, end: int) -> Link:
        """Return the stream, without its encoder's notes if they state a wrong number of frames."""
        samples = self._count * self._frame.samples
        if self._notes is None:
            return Link(self._start, end, samples, is_endless=True)
        stated, trimmed = self._notes
        if stated != self._count:
            return Link(self._start + self._frame.size, end, samples, is_endless=True)
        return Link(self._start, end, max(0, samples - trimmed))


def find_mpeg_streams(window: Window, start: int, end: int) -> list[Link]:
    """Return the streams between two bytes, each with its samples; tags and damaged bytes between frames are skipped.

    A stream ends where version, layer, sample rate or number of channels change, and before an encoder's notes.
    """
    links: list[Link] = []
    position, stream = start, None
    while position + 4 <= end:
        head = window.look(position, _HEAD_BYTES)
        frame = parse_frame(head)
        is_new = frame is not None and (stream is None or frame.kind != stream.kind)
        if frame is None or (is_new and not is_mpeg(window.look(position, _SYNC_BYTES))):
            position = _next_frame(window, position + 1, end)
            continue
        if position + frame.size > end:
            break
        has_notes = any(mark in head for mark in _MARKS)
        notes = _read_notes(window.look(position, min(frame.size, _NOTES_BYTES)), frame) if has_notes else None
        if stream is None or is_new or notes is not None:
            if stream is not None:
                links.append(stream.link(position))
            stream = _Stream(position, frame, notes)
        if notes is None:
            stream.add()
        position += frame.size
    if stream is not None:
        links.append(stream.link(end))
    return [link for link in links if link.frames]


def _next_frame(window: Window, position: int, end: int) -> int:
    """Return where the next frame may begin."""
    while 0 <= (position := window.find(b"\xff", position)) < end:
        if parse_frame(window.look(position, 4)) is not None:
            return position
        position += 1
    return end


def _read_notes(data: bytes, frame: Frame) -> tuple[int, int] | None:
    """Return the frames that an encoder's notes state and the samples that it added; None if the frame is audio."""
    version, _, _, is_mono = frame.kind
    begin = 4 + ((17 if is_mono else 32) if version == 3 else (9 if is_mono else 17)) + 2 * (not data[1] & 1)
    if data[36:40] == b"VBRI":
        return int.from_bytes(data[50:54], "big"), 0
    if data[begin : begin + 4] not in _MARKS:
        return None
    flags = data[begin + 7]
    count = int.from_bytes(data[begin + 8 : begin + 12], "big") if flags & 1 else -1
    encoder = begin + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    delays = int.from_bytes(data[encoder + 21 : encoder + 24], "big") if data[encoder : encoder + 1].isalpha() else 0
    return count, (delays >> 12) + (delays & 0xFFF)
