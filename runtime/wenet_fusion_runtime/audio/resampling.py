"""Convert samples of any type, channel count and rate to the input of models: float32, mono, at one rate."""

from __future__ import annotations

import numpy as np
import soxr

from wenet_fusion_runtime.audio.sample_formats import MAX_CHANNELS, check_format

LOUDEST = 16.0  # times full scale (24 dB): larger float samples are not on the scale [-1, 1]
CANCELLED = (
    "its channels have opposite phases and cancel each other in their mean: choose one, or keep the mean on purpose "
    '(command line: --channel 1, or 0 for the mean; data.list: "channel": 1; upload: channel=1)'
)
_CANCELLED = 0.005  # channels cancel if their mean has less than this share of their energy (-23 dB)


def to_mono(samples: np.ndarray) -> np.ndarray:
    """Convert samples to float32 mono in [-1, 1]; several channels are averaged.

    int16 is scaled by 1/32768. Floats outside [-1, 1] are clipped.

    Args:
        samples: (n,) or (n, channels); int16, float32 or float64.
    Returns:
        (n,) float32.
    Raises:
        ValueError: the shape or the type is wrong, or a value is not finite or far outside [-1, 1].

    >>> to_mono(np.array([[16384, 0], [-32768, -32768]], dtype=np.int16))
    array([ 0.25, -1.  ], dtype=float32)
    """
    samples = to_float(samples)
    if samples.ndim == 2:
        samples = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return samples


def to_float(samples: np.ndarray) -> np.ndarray:
    """Convert samples to float32 in [-1, 1] without changing their shape; see `to_mono`."""
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2):
        raise ValueError(f"samples have shape {samples.shape}, expected (n,) or (n, channels)")
    if samples.ndim == 2 and not 1 <= samples.shape[1] <= MAX_CHANNELS:
        raise ValueError(
            f"samples have shape {samples.shape}, expected (n, channels) with at most {MAX_CHANNELS} "
            "channels; transpose (channels, n)"
        )
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / 32768.0
    if samples.dtype not in (np.float32, np.float64):
        raise ValueError(f"samples are {samples.dtype}, expected float32 in [-1, 1] or int16")
    peak = max(float(samples.max()), -float(samples.min())) if samples.size else 0.0
    if not np.isfinite(peak):
        raise ValueError("samples contain NaN or infinity")
    if peak > LOUDEST:
        raise ValueError(
            f"float samples reach {peak:.6g}, expected [-1, 1]; they seem to be in the scale of integers: divide them "
            "by 32768, or write integers"
        )
    return samples.clip(-1.0, 1.0).astype(np.float32, copy=False)


class ChannelMixer:
    """Convert blocks to mono: the mean of their channels, or one of them.

    Args:
        channel: number of the channel to take, from 1; 0 takes the mean; None also takes the mean, and `cancels` tells
            whether the channels cancel each other in it.

    >>> mixer = ChannelMixer()
    >>> mixer.mix(np.array([[0.5, -0.5], [-0.25, 0.25]], np.float32)), mixer.cancels
    (array([0., 0.], dtype=float32), True)
    """

    def __init__(self, channel: int | None = None) -> None:
        if channel is not None and not 0 <= channel <= MAX_CHANNELS:
            raise ValueError(f"channel must be 1 to {MAX_CHANNELS}, or 0 for the mean of all, found {channel}")
        self._channel = channel
        self._energy = self._mixed = 0.0  # energy of the channels, and of their mean

    def mix(self, samples: np.ndarray) -> np.ndarray:
        """Return samples (n, channels) as (n,), float32; see `to_mono`."""
        channels = samples.shape[1]
        if self._channel:
            if self._channel > channels:
                raise ValueError(f"has {channels} channels, there is no channel {self._channel}")
            samples = samples[:, self._channel - 1 : self._channel]
        if self._channel is not None or channels == 1:
            return to_mono(samples)
        samples = to_float(samples)
        mixed = samples.mean(axis=1, dtype=np.float32)
        self._energy += float(np.vdot(samples, samples)) / channels
        self._mixed += float(np.vdot(mixed, mixed))
        return mixed

    @property
    def cancels(self) -> bool:
        """True if the mean has lost nearly everything, because channels have opposite phases."""
        return self._mixed < _CANCELLED * self._energy


class Resampler:
    """Convert the sample rate of a stream with soxr, quality HQ. The output does not depend on how the input is cut.

    soxr holds back some audio until more input or the end arrives, e.g. 0.16 s from 48 kHz to 8 kHz.

    Args:
        source_rate: Hz.
        target_rate: Hz.
    Raises:
        ValueError: a rate is out of range.

    >>> resampler = Resampler(48000, 16000)
    >>> blocks = [resampler.process(np.zeros(4800, np.float32), last) for last in (False, True)]
    >>> sum(map(len, blocks))
    3200
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        check_format(source_rate)
        check_format(target_rate)
        same = source_rate == target_rate
        self._stream = None if same else soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="HQ")

    def process(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """Resample the next samples.

        Args:
            samples: (n,) float32 at the source rate.
            last: the input ends here, so samples that were held back are returned too.
        Returns:
            (m,) float32 at the target rate.
        """
        if self._stream is None:
            return samples
        return self._stream.resample_chunk(np.ascontiguousarray(samples, dtype=np.float32), last=last)
