"""Detect from the beginning of a stream that its bytes are not 16-bit samples.

Audio files begin with a magic number. Samples of another type (floats, the other byte order, 8 or 24 bits) look like
loud white noise if they are read as 16 bits, but smooth in their own type. Compressed bytes are uniform noise over the
whole range. Speech, music, silence and microphone noise have none of these properties.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from wenet_fusion_runtime.audio.containers.mpeg_frames import is_mpeg
from wenet_fusion_runtime.audio.sample_formats import ALAW, FLOAT, MULAW, PCM, from_bytes

WINDOW_BYTES = 16000  # bytes that are judged at once: 0.5 s at 16 kHz
WINDOWS = 40  # windows at the beginning: one is not enough, because quiet audio is inconclusive
DENSE, SPARSE = 8, 4  # the first windows are all judged, and then every fourth one: that takes less time
_LEAST_BYTES = 4000  # fewest bytes that are judged at the end of a short stream
# Kinds of files by (position, bytes) at their beginning.
_MAGIC = (
    ((0, b"fLaC"), "FLAC"),
    ((0, b"OggS"), "Ogg"),
    ((0, b"ID3"), "mp3"),
    ((0, b"\x1a\x45\xdf\xa3"), "WebM or Matroska"),
    ((4, b"ftyp"), "MP4 (m4a)"),
    ((0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), "WMA"),
    ((0, b"#!AMR"), "AMR"),
    ((0, b"caff\x00\x01"), "CAF"),
    ((8, b"AIFF"), "AIFF"),
    ((8, b"AIFC"), "AIFF"),
    ((0, b".snd\x00\x00\x00"), "AU"),
    ((8, b"WAVEfmt "), "WAV"),
    ((8, b"WAVEJUNK"), "WAV"),
    ((8, b"WAVELIST"), "WAV"),
)
_TEXT_BYTES, _TEXT_LETTERS = 200, 8  # a text has at least this many bytes, and this many different ones
_TEXT = bytes([*b"\t\n\r", *range(0x20, 0x7F)])
# Other types of samples: floats are recognised by their range, integers by their smoothness.
_FLOATS = (("64-bit floats", 8), ("32-bit floats", 4))
_SWAPPED = "big-endian 16-bit samples"
_INTEGERS: dict[str, Callable[[bytes], np.ndarray]] = {
    _SWAPPED: lambda data: np.frombuffer(data[: len(data) // 2 * 2], ">i2").astype(np.float32),
    "24-bit samples": lambda data: 32768 * _mono(data, PCM, 3),
    "32-bit samples": lambda data: 32768 * _mono(data, PCM, 4),
    "8-bit mu-law samples": lambda data: _mono(data, MULAW, 1),
    "8-bit A-law samples": lambda data: _mono(data, ALAW, 1),
    "8-bit samples": lambda data: 32768 * _mono(data, PCM, 1),
}
_LOUD = 0.2 * 32768  # RMS from which samples are suspicious
_SMOOTH, _SMOOTHER = 0.6, 0.25  # least correlation of neighbouring samples in audio; least gain by the right type
_FEWEST_VALUES = 64  # least number of different values in recorded audio; a signal with fewer is generated
# 8-bit samples, read as pairs: more than this share of the pairs is beyond _EXTREME, or their mean is beyond _OFFSET.
_EXTREME, _EXTREME_SHARE, _OFFSET = 0.9 * 32768, 0.3, 0.15 * 32768
_AUDIBLE, _LOPSIDED = 100.0, 50.0  # least RMS of every other sample, and least ratio to the RMS of the rest
_QUIETER = 0.5  # largest ratio of the RMS in the right type to the RMS as 16-bit samples
_FLOAT_RANGE, _FLOAT_SHARE = (1e-7, 4e4), 0.97  # magnitudes of float samples; least share of values within them
_WHITE = 0.35  # largest correlation of neighbouring samples in bytes without structure
_UNIFORM_RMS, _UNIFORM_KURTOSIS = (0.52 * 32768, 0.63 * 32768), 2.0  # random bytes: RMS 0.577, kurtosis 1.8
_UNIFORM_EXTREMES = 0.03  # largest share of samples beyond 0.99 of full scale; clipped noise has more


def file_kind(head: bytes) -> str | None:
    """Return the kind of file that begins with these bytes; None if it is unknown.

    >>> file_kind(b"fLaC" + bytes(8)), file_kind(bytes(12))
    ('FLAC', None)
    """
    found = [kind for (place, magic), kind in _MAGIC if head[place : place + len(magic)] == magic]
    if not found and len(head) >= _TEXT_BYTES and not head.translate(None, _TEXT):
        return "text" if len(set(head)) >= _TEXT_LETTERS else None  # fewer: a generated signal
    return found[0] if found else "mp3" if is_mpeg(head) else None


class PcmCheck:
    """Judge the beginning of a stream of signed little-endian 16-bit samples.

    Args:
        channels: interleaved channels.
        judges_samples: judge the samples too; otherwise only the magic numbers of files are detected.

    >>> PcmCheck().feed(b"OggS" + bytes(100))
    Traceback (most recent call last):
    ValueError: the bytes are an Ogg file, expected signed 16-bit little-endian samples; send samples, or convert ...
    """

    def __init__(self, channels: int = 1, judges_samples: bool = True) -> None:
        self._judges_samples = judges_samples
        self._channels, self._bytes, self._windows, self._is_begin = channels, bytearray(), 0, True

    def feed(self, data: bytes) -> None:
        """Check the next bytes of the stream.

        Raises:
            ValueError: the bytes are not 16-bit samples.
        """
        if self._windows >= WINDOWS:
            return
        self._bytes += data
        if self._is_begin and len(self._bytes) >= 16:
            self._is_begin = False
            _refuse_file(file_kind(bytes(self._bytes[:16])))
        while len(self._bytes) >= WINDOW_BYTES and self._windows < WINDOWS:
            self._judge(bytes(self._bytes[:WINDOW_BYTES]))
            del self._bytes[:WINDOW_BYTES]

    def end(self) -> None:
        """Check the last bytes of a short stream; see `feed`."""
        if not self._windows:
            _refuse_file(file_kind(bytes(self._bytes)))
        if self._windows < WINDOWS and len(self._bytes) >= _LEAST_BYTES:
            self._judge(bytes(self._bytes))

    def _judge(self, window: bytes) -> None:
        if not self._windows:
            _refuse_file(file_kind(window))
        is_judged = self._judges_samples and (self._windows < DENSE or self._windows % SPARSE == 0)
        self._windows += 1
        kind = _other_kind(window, self._channels) if is_judged else None
        if kind is not None:
            raise ValueError(_message(kind))


def _other_kind(window: bytes, channels: int) -> str | None:
    """Return the likely type of the bytes; None if they may be 16-bit samples."""
    samples = _mono(window, PCM, 2)[::channels]
    loudness = _rms(samples)
    with np.errstate(all="ignore"):
        for kind, width in _FLOATS:
            if _are_floats(_mono(window, FLOAT, width)):
                return kind
    if channels == 1 and _is_every_other(samples):
        return "32-bit samples, or two channels"
    if loudness < _LOUD or len(np.unique(samples)) < _FEWEST_VALUES:
        return None
    is_bytewise = np.mean(np.abs(samples) > _EXTREME) > _EXTREME_SHARE or abs(samples.mean()) > _OFFSET
    smoothness = _correlation(samples)
    if not is_bytewise and smoothness > _SMOOTH:
        return None
    with np.errstate(all="ignore"):
        others = {kind: read(window)[::channels] for kind, read in _INTEGERS.items()}
    if is_bytewise:  # clipped 16-bit audio also looks quiet and smooth in the other byte order
        del others[_SWAPPED]
    smooth = {
        kind: correlation
        for kind, other in others.items()
        if 0 < _rms(other) < _QUIETER * loudness
        and (correlation := _correlation(other)) > _SMOOTH
        and (is_bytewise or correlation > smoothness + _SMOOTHER)
    }
    if smooth:
        return max(smooth, key=lambda kind: smooth[kind])
    is_uniform = (
        abs(smoothness) < _WHITE
        and _UNIFORM_RMS[0] < loudness < _UNIFORM_RMS[1]
        and np.mean((samples / loudness) ** 4) < _UNIFORM_KURTOSIS
        and np.mean(np.abs(samples) > 0.99 * 32768) < _UNIFORM_EXTREMES
    )
    return "noise at full scale, such as compressed or encrypted data" if is_uniform else None


def _is_every_other(samples: np.ndarray) -> bool:
    """Return whether every other sample belongs to smooth audio and the rest are nearly zero."""
    even, odd = samples[::2], samples[1::2]
    quiet, loud = sorted([(_rms(even), 0), (_rms(odd), 1)])
    is_lopsided = loud[0] > _AUDIBLE and quiet[0] * _LOPSIDED < loud[0]
    return is_lopsided and _correlation((even, odd)[loud[1]]) > _SMOOTH


def _are_floats(values: np.ndarray) -> bool:
    """Return whether nearly all values have the magnitude of samples and not all are zero."""
    size = np.abs(values)
    plausible = (size > _FLOAT_RANGE[0]) & (size < _FLOAT_RANGE[1])
    return bool(np.mean(plausible) > 0.1 and np.mean(plausible | (size == 0)) > _FLOAT_SHARE)


def _refuse_file(kind: str | None) -> None:
    if kind is not None:
        raise ValueError(_message(f"{'an' if kind[0] in 'AMOm' else 'a'} {kind} file"))


def _message(kind: str) -> str:
    return (
        f"the bytes are {kind}, expected signed 16-bit little-endian samples; send samples, or convert them "
        "(ffmpeg -i INPUT -f s16le -ac 1 -ar 16000 -)"
    )


def _mono(data: bytes, tag: int, width: int) -> np.ndarray:
    return from_bytes(data[: len(data) // width * width], tag, width, 1)[:, 0].astype(np.float32)


def _rms(samples: np.ndarray) -> float:
    samples = samples.astype(np.float64)
    return math.sqrt(float(np.vdot(samples, samples)) / len(samples))


def _correlation(samples: np.ndarray) -> float:
    """Return the correlation of neighbouring samples; 1 if all are equal."""
    samples = samples.astype(np.float64) - samples.mean()
    energy = float(np.vdot(samples, samples))
    return 1.0 if not energy else float(np.vdot(samples[1:], samples[:-1])) / energy
