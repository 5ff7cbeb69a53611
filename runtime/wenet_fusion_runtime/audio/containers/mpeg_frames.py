"""Scan the frames of MPEG audio (mp3), to find the beginning, the end and the length of each stream.

At a variable bit rate, decoders estimate the length from the first frames, or believe the encoder's tag. This module
counts all frames.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from wenet_fusion_runtime.audio.containers.byte_ranges import Link, Window

# kbit/s by index: for layers I, II and III of MPEG 1, and for layers I and II/III of MPEG 2.
_RATES_1 = (
    (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_RATES_2 = (
    (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_SAMPLE_RATES = (44100, 48000, 32000)  # of MPEG 1; half of these in MPEG 2, a quarter in MPEG 2.5
_SYNC_BYTES = 6000  # three frames of usual bit rates
_HEAD_BYTES = 48  # bytes from the beginning of a frame to the end of the mark that begins an encoder's tag
_TAG_BYTES = 192  # bytes from the beginning of a frame to the end of an encoder's tag
_SEARCHED = 1 << 15  # bytes that are searched for frames at once
_MOST_PARTS = 100_000  # most runs of frames in a stream; damage between further runs is not cut out
_MARKS = (b"Xing", b"Info", b"VBRI")


class Frame(NamedTuple):
    """A frame header.

    >>> parse_frame(bytes([0xFF, 0xFB, 0x90, 0x00]))
    Frame(size=417, samples=1152, kind=(3, 3, 44100, False))
    """

    size: int  # bytes, including the header
    samples: int  # per channel
    kind: tuple[int, int, int, bool]  # version, layer, sample rate, is mono; constant within a stream


def parse_frame(header: bytes) -> Frame | None:
    """Parse a frame header of 4 bytes; return None if it is not one, or does not state the bit rate."""
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
    """Return whether the data begin with three consecutive frames of one kind."""
    position, kinds = 0, set()
    for _ in range(3):
        frame = parse_frame(data[position : position + 4])
        if frame is None:
            return False
        kinds.add(frame.kind)
        position += frame.size
    return len(kinds) == 1


class _Stream:
    """Counts the frames of one stream."""

    def __init__(self, start: int, frame: Frame, tag: tuple[int, int] | None) -> None:
        self.kind = frame.kind
        self._tag, self._count, self._frame = tag, 0, frame
        self._runs = [[start, start]]  # byte ranges of consecutive frames

    def add(self, start: int, frame: Frame, is_audio: bool) -> None:
        self._count += is_audio
        if start != self._runs[-1][1] and len(self._runs) < _MOST_PARTS:
            self._runs.append([start, start])
        self._runs[-1][1] = start + frame.size

    def end_within(self, start: int, end: int) -> None:
        """Include the incomplete last frame, which the decoder may still use."""
        if start == self._runs[-1][1]:
            self._runs[-1][1] = end

    def link(self) -> Link:
        """Return the stream without the damage between its frames, because decoders print errors or stop there. Leave
        out the encoder's tag too if it states a wrong number of frames."""
        samples, is_endless = self._count * self._frame.samples, True
        if self._tag is not None:
            stated, trimmed = self._tag
            if stated == self._count:
                samples, is_endless = max(0, samples - trimmed), False
            else:
                self._runs[0][0] += self._frame.size
        parts = tuple((start, end) for start, end in self._runs if start < end)
        if not parts:
            return Link(self._runs[0][0], self._runs[0][0], 0)
        return Link(parts[0][0], parts[-1][1], samples, is_endless, parts)


class _FrameSearch:
    """Finds where frames begin. It searches one block at a time, so damaged files take little time per byte."""

    def __init__(self, window: Window, end: int) -> None:
        self._window, self._end = window, end
        self._begin = self._stop = 0  # range of the block
        self._places = self._kinds = np.zeros(0, np.int64)  # of all headers in the block
        self._is_paired = np.zeros(0, bool)  # a frame of the same kind follows, or the range ends
        self._is_followed = np.zeros(0, bool)  # two frames of the same kind follow
        self._wanted: tuple[int, np.ndarray] = (-2, self._places)  # kind of the last search, and the places it found

    def next(self, position: int, kind: tuple[int, int, int, bool] | None) -> int:
        """Return where, from `position` on, two frames of `kind` begin, or its last one, or three of any one kind.

        Without any of these, return the end of the range.
        """
        number = -2 if kind is None else 2 * _headers().numbers[kind[:3]] + kind[3]
        while position + 4 <= self._end:
            if not self._begin <= position < self._stop:
                self._search(position)
                self._wanted = (-1, self._places)
            if self._wanted[0] != number:
                self._wanted = number, self._places[self._is_followed | self._is_paired & (self._kinds == number)]
            found = self._wanted[1]
            if (at := int(np.searchsorted(found, position))) < len(found):
                return int(found[at])
            position = self._stop
        return self._end

    def _search(self, position: int) -> None:
        count = min(_SEARCHED + _SYNC_BYTES, self._end - position)
        data = np.frombuffer(self._window.look(position, count), np.uint8)
        table, last = _headers(), len(data)
        at = np.flatnonzero((data[:-3] == 0xFF) & (data[1:-2] >= 0xE0))
        keys = (data[at + 1] & 0x1F).astype(np.int64) << 8 | data[at + 2]
        at, keys = at[table.sizes[keys] > 0], keys[table.sizes[keys] > 0]
        kinds = 2 * table.kinds[keys] + (data[at + 3] >> 6 == 3)
        sizes_at, kinds_at = np.zeros(last + 1, np.int64), np.full(last + 1, -1)
        sizes_at[at], kinds_at[at] = table.sizes[keys], kinds
        second = np.minimum(at + sizes_at[at], last)
        third = np.minimum(second + sizes_at[second], last)
        self._is_paired = (kinds_at[second] == kinds) | (second == self._end - position)
        self._is_followed = (kinds_at[second] == kinds) & (kinds_at[third] == kinds)
        self._begin, self._stop = position, position + min(last, _SEARCHED)
        self._places, self._kinds = position + at, kinds


class _Headers(NamedTuple):
    """Sizes and kinds of frames, indexed by 13 bits of the header: the lower five of byte 2, and all of byte 3."""

    sizes: np.ndarray  # bytes; 0: no frame
    kinds: np.ndarray  # values of `numbers`
    numbers: dict[tuple[int, int, int], int]  # a number for each version, layer and sample rate


@lru_cache(maxsize=1)
def _headers() -> _Headers:
    sizes, kinds = np.zeros(1 << 13, np.int64), np.zeros(1 << 13, np.int64)
    numbers: dict[tuple[int, int, int], int] = {}
    for key in range(1 << 13):
        if frame := _parse(0xE0 | key >> 8, key & 0xFF, False):
            sizes[key], kinds[key] = frame.size, numbers.setdefault(frame.kind[:3], len(numbers))
    return _Headers(sizes, kinds, numbers)


def find_mpeg_streams(window: Window, start: int, end: int) -> list[Link]:
    """Return the streams from byte `start` to `end` with their lengths; skip tags and damaged bytes.

    A stream ends where version, layer, sample rate or number of channels change, and before an encoder's tag.
    """
    links: list[Link] = []
    position, stream, search = start, None, _FrameSearch(window, end)
    while position + 4 <= end:
        head = window.look(position, _HEAD_BYTES)
        frame = parse_frame(head)
        is_new = frame is not None and (stream is None or frame.kind != stream.kind)
        if frame is None or (is_new and not is_mpeg(window.look(position, _SYNC_BYTES))):
            position = search.next(position + 1, None if stream is None else stream.kind)
            continue
        if position + frame.size > end:
            if stream is not None:
                stream.end_within(position, end)
            break
        has_tag = any(mark in head for mark in _MARKS)
        tag = _read_tag(window.look(position, min(frame.size, _TAG_BYTES)), frame) if has_tag else None
        if stream is None or is_new or tag is not None:
            if stream is not None:
                links.append(stream.link())
            stream = _Stream(position, frame, tag)
        stream.add(position, frame, is_audio=tag is None)
        position += frame.size
    if stream is not None:
        links.append(stream.link())
    return [link for link in links if link.frames]


def _read_tag(data: bytes, frame: Frame) -> tuple[int, int] | None:
    """Return the numbers of frames and of padding samples from an encoder's tag; None if the frame is audio."""
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
