"""Samples of any type, channel count and rate as the model needs them: float32, mono, at one rate."""

from __future__ import annotations

import numpy as np
import soxr

MAX_CHANNELS = 32


def to_mono(samples: np.ndarray) -> np.ndarray:
    """Float32 mono of (n,) or (n, channels), the mean of the channels; int16 is scaled to [-1, 1), float is clipped to
    [-1, 1]: the largest numbers of float32 would become infinite on their way through a resampler.

    Raises:
        ValueError: another shape or type, or values that are not finite.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2):
        raise ValueError(f"samples have shape {samples.shape}, expected (n,) or (n, channels)")
    if samples.ndim == 2 and not 1 <= samples.shape[1] <= MAX_CHANNELS:
        raise ValueError(
            f"samples have shape {samples.shape}, expected (n, channels) with at most {MAX_CHANNELS} "
            "channels; transpose (channels, n)"
        )
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / 32768.0
    elif samples.dtype in (np.float32, np.float64):
        if not np.isfinite(samples).all():
            raise ValueError("samples contain NaN or infinity")
        samples = samples.clip(-1.0, 1.0).astype(np.float32, copy=False)
    else:
        raise ValueError(f"samples are {samples.dtype}, expected float32 in [-1, 1] or int16")
    if samples.ndim == 2:
        samples = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return samples


class Resampler:
    """Streaming sample rate conversion (soxr, HQ). The whole output is the same for any cut of the input.

    Samples come out late: soxr holds back up to about 0.16 s (48 kHz to 8 kHz) until more input, or the end, comes.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        if source_rate <= 0 or target_rate <= 0:
            raise ValueError(f"sample rates must be positive, found {source_rate} and {target_rate} Hz")
        same = source_rate == target_rate
        self._stream = None if same else soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="HQ")

    def process(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """Resample the next samples, (n,) float32; `last` once, at the end, gives what was held back too."""
        if self._stream is None:
            return samples
        return self._stream.resample_chunk(np.ascontiguousarray(samples, dtype=np.float32), last=last)
