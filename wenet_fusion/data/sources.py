"""Read headers and samples of an utterance's audio, from a file or from inside a tar."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from wenet_fusion_runtime.audio.containers.byte_ranges import FileRange
from wenet_fusion_runtime.audio.reader import AudioReader, load_audio
from wenet_fusion_runtime.files import printable

# How far the end of a segment may lie after the end of its audio: lists round times, and codecs pad.
SEGMENT_TOLERANCE = 0.1  # seconds
_HEADER_THREADS = 8  # threads that read headers mostly wait for the disk


class AudioSource(NamedTuple):
    """The place of audio: a whole file (size 0), `size` bytes of a tar from byte `offset` on, or bytes in memory."""

    path: str
    offset: int = 0
    size: int = 0
    content: bytes | None = None  # audio in memory; path, offset and size say where it came from


@dataclass(frozen=True)
class Utterance:
    """One entry of a data list.

    >>> Utterance("u1", AudioSource("u1.wav"), "one two", seconds=1.3).text
    'one two'
    """

    key: str
    source: AudioSource
    text: str  # transcript; may be empty
    seconds: float  # duration; 0.0 if unknown
    start: float | None = None  # start of the utterance in the audio, seconds; None: the audio's start
    end: float | None = None  # end of the utterance in the audio, seconds; None: the audio's end
    speaker: str | None = None
    channel: int | None = None  # from 1; 0: mean of all channels; None: the mean, or an error if channels cancel out
    place: str = field(default="", compare=False)  # list and line of the utterance, for messages


class AudioHeader(NamedTuple):
    """Properties of an utterance's audio."""

    sample_rate: int  # Hz
    seconds: float  # duration of the utterance, also if it is a segment of a longer file


def read_header(utterance: Utterance) -> AudioHeader:
    """Read sample rate and duration, without decoding the audio if its format states the duration.

    Raises:
        OSError, ValueError: the audio is missing, damaged or empty, or the segment lies outside it.
    """
    with _open(utterance.source) as audio, AudioReader(audio, _name(utterance), utterance.channel) as reader:
        total, sample_rate = reader.seconds, reader.sample_rate
    if total <= 0:
        raise ValueError(f"{_name(utterance)}: has no samples")
    start = utterance.start or 0.0
    end = total if utterance.end is None else utterance.end
    if not start < total or not start < end <= total + SEGMENT_TOLERANCE:
        raise ValueError(f"{_name(utterance)}: segment {start:.3f}-{end:.3f} s is not inside its {total:.3f} s")
    return AudioHeader(sample_rate, min(end, total) - start)


def read_headers(utterances: Sequence[Utterance]) -> list[AudioHeader | str]:
    """Read the headers of utterances in their order; the error message replaces a header that cannot be read."""
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        return list(pool.map(header_or_problem, utterances))


def header_or_problem(utterance: Utterance) -> AudioHeader | str:
    """Read the header of an utterance's audio, or return the error message."""
    try:
        return read_header(utterance)
    except (OSError, ValueError) as error:
        return str(error)


def read_samples(utterance: Utterance, sample_rate: int, longest: float = math.inf) -> np.ndarray:
    """Read the utterance's channel as float32 samples (N,) in [-1, 1], resampled to `sample_rate` (Hz).

    Raises:
        OSError, ValueError: the audio is missing, damaged, truncated or empty, or lasts more than `longest` seconds.
    """
    start, end = utterance.start or 0.0, utterance.end
    if end is not None:  # clip an end that lies a little after the audio's
        end = start + read_header(utterance).seconds
    with _open(utterance.source) as audio:
        return load_audio(audio, sample_rate, start, end, _name(utterance), utterance.channel, longest)


def read_segment(utterance: Utterance, sample_rate: int, start: float = 0.0, end: float | None = None) -> np.ndarray:
    """Read samples from `start` to `end` (seconds) of audio that was readable before; see `read_samples`.

    Raises:
        OSError: the audio cannot be read any more.
    """
    try:
        with _open(utterance.source) as audio:
            return load_audio(audio, sample_rate, start, end, _name(utterance), utterance.channel)
    except ValueError as error:
        raise OSError(str(error)) from error


def _name(utterance: Utterance) -> str:
    source = utterance.source
    path = printable(source.path)
    return f"{path} ({utterance.key} at byte {source.offset})" if source.size else path


def _open(source: AudioSource) -> contextlib.AbstractContextManager[str | FileRange | io.BytesIO]:
    if source.content is not None:
        return io.BytesIO(source.content)
    if not source.size:
        return contextlib.nullcontext(source.path)
    return FileRange(open(source.path, "rb"), source.offset, source.offset + source.size, closes=True)
