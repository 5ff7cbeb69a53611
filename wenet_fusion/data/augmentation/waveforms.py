"""Random changes to waveforms (speed, noise, gain), drawn from a given generator."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torchaudio


@dataclass(frozen=True)
class Augmentation:
    """Ranges from which `augment` draws; the defaults change nothing.

    >>> Augmentation(speed_factors=(0.9, 1.0, 1.1), gain_db=(-6.0, 6.0)).problems()
    []
    """

    speed_factors: tuple[float, ...] = (1.0,)  # one is drawn; 1.1 is 10 % faster and higher; steps of 0.01
    gain_db: tuple[float, float] = (0.0, 0.0)  # range of the gain, dB
    noise_snr_db: tuple[float, float] = (10.0, 30.0)  # range of the ratio of signal to added noise, dB
    noise_probability: float = 0.0  # share of utterances with added noise, half of it white and half pink

    def problems(self) -> list[str]:
        """Return what is wrong with the values, one message each."""
        found = []
        if not self.speed_factors or not all(0.25 <= factor <= 4 for factor in self.speed_factors):
            found.append(f"speed_factors {list(self.speed_factors)} must be one or more numbers from 0.25 to 4")
        for name, (low, high) in (("gain_db", self.gain_db), ("noise_snr_db", self.noise_snr_db)):
            if not low <= high:
                found.append(f"{name} [{low}, {high}] must be [low, high]")
        if not 0 <= self.noise_probability <= 1:
            found.append(f"noise_probability {self.noise_probability} must lie between 0 and 1")
        return found


def augment(samples: np.ndarray, config: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Return a copy with changed speed, then added noise, then gain.

    A speed factor divides the length by itself. A gain that would clip is lowered. Switching one change on leaves the
    draws of the others as they are.

    Args:
        samples: float32 mono (N,) in [-1, 1].
        config: ranges to draw from.
        rng: the generator of all draws.

    Returns:
        Float32 samples in [-1, 1].
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
    """Return white or pink (power falls as 1/frequency) Gaussian noise, float32 (length,), mean power 1.

    >>> noise(8000, pink=True, rng=np.random.default_rng(0)).shape
    (8000,)
    """
    white = rng.standard_normal(length)
    if pink:
        spectrum = np.fft.rfft(white)
        spectrum[1:] /= np.sqrt(np.arange(1, spectrum.size))
        white = np.fft.irfft(spectrum, length)
    return (white / max(np.sqrt(np.square(white).mean()), 1e-12)).astype(np.float32)


@functools.lru_cache(maxsize=32)
def _speed(factor: float) -> torchaudio.transforms.Resample:
    # torchaudio's Speed builds a filter of gigabytes if factor * rate and rate share no divisor; this one is small.
    return torchaudio.transforms.Resample(round(100 * factor), 100)
