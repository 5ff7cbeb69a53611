"""Random changes to waveforms (speed, noise, gain) and SpecAugment masks; knows no file and keeps no random state."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchaudio


@dataclass(frozen=True)
class Augmentation:
    """What `augment` draws from. The defaults change nothing."""

    speed_factors: tuple[float, ...] = (1.0,)  # 1.1: a tenth faster, and higher in pitch; in steps of 0.01
    gain_db: tuple[float, float] = (0.0, 0.0)
    noise_snr_db: tuple[float, float] = (10.0, 30.0)
    noise_probability: float = 0.0

    def problems(self) -> list[str]:
        found = []
        if not self.speed_factors or not all(0.25 <= factor <= 4 for factor in self.speed_factors):
            found.append(f"speed_factors {list(self.speed_factors)} must be one or more numbers from 0.25 to 4")
        for name, (low, high) in (("gain_db", self.gain_db), ("noise_snr_db", self.noise_snr_db)):
            if not low <= high:
                found.append(f"{name} [{low}, {high}] must be [low, high]")
        if not 0 <= self.noise_probability <= 1:
            found.append(f"noise_probability {self.noise_probability} must lie between 0 and 1")
        return found


@dataclass(frozen=True)
class SpecAugmentConfig:
    """Masks per utterance; each width is drawn from 0 to its maximum."""

    num_time_masks: int = 2
    max_time_frames: int = 50  # feature frames
    num_freq_masks: int = 2
    max_freq_bins: int = 10
    max_time_fraction: float = 0.2  # of the utterance, per time mask: spares short utterances

    def problems(self) -> list[str]:
        names = ("num_time_masks", "max_time_frames", "num_freq_masks", "max_freq_bins")
        found = [f"{name} {getattr(self, name)} must not be negative" for name in names if getattr(self, name) < 0]
        if not 0 <= self.max_time_fraction <= 1:
            found.append(f"max_time_fraction {self.max_time_fraction} must lie between 0 and 1")
        return found


def augment(samples: np.ndarray, config: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """A changed copy of float32 mono `samples` (N,) in [-1, 1]: speed, then noise, then gain; stays in that range.

    A gain that would clip is lowered. One speed factor divides the length by it. The number of draws that precede the
    noise is fixed, so switching one change on does not reshuffle the others.
    """
    factor = config.speed_factors[rng.integers(len(config.speed_factors))]
    gain_db = rng.uniform(*config.gain_db)
    snr_db = rng.uniform(*config.noise_snr_db)
    noisy = rng.random() < config.noise_probability
    pink = rng.random() < 0.5
    out = np.array(samples, dtype=np.float32)
    if factor != 1.0 and out.size:
        out = _speed(factor)(torch.from_numpy(out)).numpy()
    if noisy and out.size:
        power = np.square(out, dtype=np.float64).mean()
        out = out + noise(out.size, pink, rng) * np.float32(np.sqrt(power / 10 ** (snr_db / 10)))
    peak = float(np.abs(out).max(initial=0.0))
    gain = min(10 ** (gain_db / 20), 1.0 / max(peak, 1e-9))
    return out * np.float32(gain)


def noise(length: int, pink: bool, rng: np.random.Generator) -> np.ndarray:
    """White or pink (power falls as 1/frequency) Gaussian noise, float32 (length,), mean power 1."""
    white = rng.standard_normal(length)
    if pink:
        spectrum = np.fft.rfft(white)
        spectrum[1:] /= np.sqrt(np.arange(1, spectrum.size))
        white = np.fft.irfft(spectrum, length)
    return (white / max(np.sqrt(np.square(white).mean()), 1e-12)).astype(np.float32)


@functools.lru_cache(maxsize=32)
def _speed(factor: float) -> torchaudio.transforms.Resample:
    # Like torchaudio's Speed, which however builds a filter of gigabytes where factor * rate and rate share no divisor.
    return torchaudio.transforms.Resample(round(100 * factor), 100)


def feature_masks(
    lengths: Sequence[int], num_mel_bins: int, config: SpecAugmentConfig, rng: np.random.Generator
) -> torch.Tensor:
    """SpecAugment (Park et al., 2019) masks, bool (B, T, F), True = masked; T is the longest of `lengths` (frames).

    Frequency masks cover a whole utterance, time masks all bins; padding after a row's length is never masked.
    """
    lengths = [int(length) for length in lengths]
    masks = torch.zeros(len(lengths), max(lengths, default=0), num_mel_bins, dtype=torch.bool)
    for row, length in zip(masks, lengths):
        max_width = min(config.max_time_frames, int(config.max_time_fraction * length))
        for _ in range(config.num_time_masks):
            start, end = _span(max_width, length, rng)
            row[start:end] = True
        for _ in range(config.num_freq_masks):
            start, end = _span(min(config.max_freq_bins, num_mel_bins), num_mel_bins, rng)
            row[:length, start:end] = True
    return masks


def _span(max_width: int, length: int, rng: np.random.Generator) -> tuple[int, int]:
    width = int(rng.integers(max_width + 1))
    start = int(rng.integers(length - width + 1))
    return start, start + width
