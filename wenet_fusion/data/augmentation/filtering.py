"""Convolve waveforms, and limit their frequency band."""

from __future__ import annotations

import numpy as np

_TAPS = 255  # length of band filters: their transition band is about 3 / _TAPS of the sample rate wide


def convolve(samples: np.ndarray, taps: np.ndarray, centre: int) -> np.ndarray:
    """Return samples convolved with a filter, float32 (N,); tap number `centre` has no delay.

    >>> convolve(np.array([1, 0, 0, 2], np.float32), np.array([0, 1, 0.5], np.float32), centre=1).round(3) + 0.0
    array([1. , 0.5, 0. , 2. ], dtype=float32)
    """
    size = 1 << max(12, (2 * taps.size - 1).bit_length())
    step = size - taps.size + 1
    blocks = -(-(samples.size + centre) // step)
    padded = np.zeros(blocks * step, np.float32)
    padded[: samples.size] = samples
    spectra = np.fft.rfft(padded.reshape(blocks, step), size) * np.fft.rfft(taps.astype(np.float32), size)
    parts = np.fft.irfft(spectra, size)
    out = np.zeros(blocks * step + size, np.float32)
    for number, part in enumerate(parts):
        out[number * step : number * step + size] += part
    return out[centre : centre + samples.size]


def limit_band(samples: np.ndarray, sample_rate: int, low: float, high: float) -> np.ndarray:
    """Return samples, float32 (N,), with only the frequencies from `low` to `high` (Hz), without delay.

    Args:
        samples: (N,).
        sample_rate: Hz.
        low: lower edge; 0: no lower edge.
        high: upper edge; half the sample rate or more: no upper edge.
    """
    times = np.arange(_TAPS) - _TAPS // 2
    low, high = (min(edge / sample_rate, 0.5) for edge in (low, high))
    taps = (2 * high * np.sinc(2 * high * times) - 2 * low * np.sinc(2 * low * times)) * np.hanning(_TAPS + 2)[1:-1]
    return convolve(samples, taps, _TAPS // 2)


def below_full_scale(samples: np.ndarray) -> np.ndarray:
    """Return samples, attenuated to a peak of 1 if they exceed [-1, 1].

    >>> below_full_scale(np.array([0.5, -2.0], np.float32)).tolist()
    [0.25, -1.0]
    """
    peak = float(np.abs(samples).max(initial=0.0))
    return samples / np.float32(peak) if peak > 1 else samples


def range_problems(name: str, limits: tuple[float, float], lowest: float, highest: float) -> list[str]:
    """Return a message if the range of an option is invalid, else an empty list.

    >>> range_problems("cutoff_hz", (7000.0, 2000.0), 100, 96000)
    ['cutoff_hz [7000.0, 2000.0] must be [low, high], from 100 to 96000']
    """
    if lowest <= limits[0] <= limits[1] <= highest:
        return []
    return [f"{name} [{limits[0]}, {limits[1]}] must be [low, high], from {lowest:g} to {highest:g}"]


def probability_problems(probability: float) -> list[str]:
    """Return a message if the share of utterances to change is invalid, else an empty list."""
    return [] if 0 <= probability <= 1 else [f"probability {probability} must lie between 0 and 1"]
