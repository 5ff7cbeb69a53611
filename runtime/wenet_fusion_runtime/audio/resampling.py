"""Convert samples of any type, channel count and rate to what models take: float32, mono, at one rate."""

from __future__ import annotations

import numpy as np
import soxr

MAX_CHANNELS = 32


def to_mono(samples: np.ndarray) -> np.ndarray:
    """Convert samples to float32 mono in [-1, 1]; several channels become their mean.

    int16 is scaled by 1/32768. Floats are clipped, because very large ones would overflow in a resampler.

    Args:
        samples: (n,) or (n, channels); int16, float32 or float64.
    Returns:
        (n,) float32.
    Raises:
        ValueError: the shape or the type is another, or a value is not finite.

    >>> to_mono(np.array([[16384, 0], [-32768, -32768]], dtype=np.int16))
    array([ 0.25, -1.  ], dtype=float32)
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
    """Convert the sample rate of a stream (soxr, quality HQ). The output does not depend on how the input is cut.

    soxr holds back up to 0.16 s (48 kHz to 8 kHz) until more input or the end comes.

    Args:
        source_rate: Hz.
        target_rate: Hz.
    Raises:
        ValueError: a rate is not positive.

    >>> resampler = Resampler(48000, 16000)
    >>> blocks = [resampler.process(np.zeros(4800, np.float32), last) for last in (False, True)]
    >>> sum(map(len, blocks))
    3200
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        if source_rate <= 0 or target_rate <= 0:
            raise ValueError(f"sample rates must be positive, found {source_rate} and {target_rate} Hz")
        same = source_rate == target_rate
        self._stream = None if same else soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="HQ")

    def process(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """Resample the next samples.

        Args:
            samples: (n,) float32 at the source rate.
            last: whether the input ends here; then samples that were held back are returned too.
        Returns:
            (m,) float32 at the target rate.
        """
        if self._stream is None:
            return samples
        return self._stream.resample_chunk(np.ascontiguousarray(samples, dtype=np.float32), last=last)
