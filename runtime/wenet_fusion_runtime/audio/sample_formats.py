"""Limits of sample rates and channels, and conversion of samples of any width to arrays."""

from __future__ import annotations

import numpy as np

MAX_CHANNELS = 32
SAMPLE_RATES = (4000, 384000)  # Hz, lowest and highest accepted rate
PCM, FLOAT, ALAW, MULAW = 1, 3, 6, 7  # format tags of WAV
_FULL_SCALE = 2.0**31


def check_format(sample_rate: int, channels: int = 1) -> None:
    """Raise ValueError if a sample rate or a number of channels is out of range."""
    if not SAMPLE_RATES[0] <= sample_rate <= SAMPLE_RATES[1]:
        raise ValueError(f"{sample_rate} Hz is not accepted, expected {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"{channels} channels are not accepted, expected 1 to {MAX_CHANNELS} channels")


def is_plain(tag: int, width: int) -> bool:
    """Return whether `from_bytes` can convert samples of this WAV format tag and this width in bytes."""
    return (
        (tag == PCM and 1 <= width <= 4) or (tag == FLOAT and width in (4, 8)) or (tag in (ALAW, MULAW) and width == 1)
    )


def from_bytes(data: bytes, tag: int, width: int, channels: int) -> np.ndarray:
    """Return little-endian interleaved samples as (n, channels), int16 or float32 in [-1, 1].

    Args:
        data: whole frames.
        tag: format tag of WAV.
        width: bytes per sample; a sample with fewer bits uses the upper bits.
        channels: number of channels.

    >>> from_bytes(bytes([0, 192, 128, 255]), PCM, 1, 2).tolist()
    [[-1.0, 0.5], [0.0, 0.9921875]]
    """
    if tag == FLOAT:
        with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN, which `to_mono` refuses
            samples = np.frombuffer(data, f"<f{width}").astype(np.float32, copy=False)
    elif tag in (ALAW, MULAW):
        samples = (_ALAW if tag == ALAW else _MULAW)[np.frombuffer(data, np.uint8)]
    elif width == 2:
        samples = np.frombuffer(data, "<i2").astype(np.int16, copy=False)
    elif width == 1:
        samples = (np.frombuffer(data, np.uint8).astype(np.float32) - 128.0) / 128.0
    elif width == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = (padded.reshape(-1).view("<i4") / _FULL_SCALE).astype(np.float32)
    else:
        samples = (np.frombuffer(data, "<i4") / _FULL_SCALE).astype(np.float32)
    return samples.reshape(-1, channels)


def _mulaw() -> np.ndarray:
    """Return the int16 sample of each byte in ITU G.711 mu-law."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    size = (((code & 0x0F) << 3) + 0x84) << ((code >> 4) & 7)
    return np.where(code & 0x80, 0x84 - size, size - 0x84).astype(np.int16)


def _alaw() -> np.ndarray:
    """Return the int16 sample of each byte in ITU G.711 A-law."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent, size = (code >> 4) & 7, (code & 0x0F) << 4
    size = np.where(exponent == 0, size + 8, (size + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, size, -size).astype(np.int16)


_MULAW, _ALAW = _mulaw(), _alaw()
