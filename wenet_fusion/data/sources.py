"""Samples and headers of one utterance's audio, from a file or from inside a tar; knows neither lists nor batches."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
from wenet_fusion_runtime.audio.reader import AudioReader, load_audio

# A segment may end this much after its audio: lists round their times, and codecs pad.
_TOLERANCE_SECONDS = 0.1
_HEADER_THREADS = 8  # headers cost waiting, not work


class AudioSource(NamedTuple):
    """Where audio is stored: a file, or `size` bytes from `offset` of a tar; size 0 is a whole file."""

    path: str
    offset: int = 0
    size: int = 0


@dataclass(frozen=True)
class Utterance:
    """One line of a data list. `start` and `end` (seconds) cut a segment out of the audio; None is its start and end.

    `seconds` is the utterance's duration, 0.0 where a list does not give it and the header cannot be read.
    """

    key: str
    source: AudioSource
    text: str
    seconds: float
    start: float | None = None
    end: float | None = None
    speaker: str | None = None


class AudioHeader(NamedTuple):
    sample_rate: int
    seconds: float  # of the utterance, not of the file it is cut from


def read_header(utterance: Utterance) -> AudioHeader:
    """Sample rate and duration, without decoding. Raises OSError or ValueError naming the file and its fault."""
    with _open(utterance.source) as audio, AudioReader(audio, _name(utterance)) as reader:
        total, sample_rate = reader.seconds, reader.sample_rate
    if total <= 0:
        raise ValueError(f"{_name(utterance)}: has no samples")
    start = utterance.start or 0.0
    end = total if utterance.end is None else utterance.end
    if not start < total or not start < end <= total + _TOLERANCE_SECONDS:
        raise ValueError(f"{_name(utterance)}: segment {start:.3f}-{end:.3f} s is not inside its {total:.3f} s")
    return AudioHeader(sample_rate, min(end, total) - start)


def read_headers(utterances: Sequence[Utterance]) -> list[AudioHeader | str]:
    """`read_header` of many, in their order; where it raises, the message."""

    def header_or_message(utterance: Utterance) -> AudioHeader | str:
        try:
            return read_header(utterance)
        except (OSError, ValueError) as error:
            return str(error)

    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        return list(pool.map(header_or_message, utterances))


def read_samples(utterance: Utterance, sample_rate: int) -> np.ndarray:
    """Float32 mono samples (N,) in [-1, 1] at `sample_rate`; several channels are averaged.

    Raises OSError or ValueError naming the file if it is missing, damaged, truncated or empty.
    """
    start, end = utterance.start or 0.0, utterance.end
    if end is not None:  # may lie a little outside
        end = start + read_header(utterance).seconds
    with _open(utterance.source) as audio:
        return load_audio(audio, sample_rate, start, end, _name(utterance))


class ReadBatch(NamedTuple):
    samples: dict[str, np.ndarray]  # by key, of those that could be read
    unreadable: dict[str, str]  # reasons by key


def read_batch(utterances: Sequence[Utterance], sample_rate: int) -> ReadBatch:
    """`read_samples` of several; what cannot be read is told."""
    batch = ReadBatch({}, {})
    for utterance in utterances:
        try:
            batch.samples[utterance.key] = read_samples(utterance, sample_rate)
        except (ValueError, OSError) as error:
            batch.unreadable[utterance.key] = str(error)
    return batch


def _name(utterance: Utterance) -> str:
    source = utterance.source
    return f"{source.path} ({utterance.key} at byte {source.offset})" if source.size else source.path


def _open(source: AudioSource) -> contextlib.AbstractContextManager[str | BinaryIO]:
    if not source.size:
        return contextlib.nullcontext(source.path)
    return io.BufferedReader(_TarMember(open(source.path, "rb"), source.offset, source.size))


class _TarMember(io.RawIOBase):
    """`size` bytes of an open file from `offset` on, read in place: a header costs no more than a header."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._offset + self._position)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
