"""Add recorded noise to waveforms, and draw white and pink noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wenet_fusion.data.augmentation.audio_lists import read_audio_list
from wenet_fusion.data.augmentation.filtering import probability_problems, range_problems
from wenet_fusion.data.sources import Utterance, read_segment

_SPARE_SECONDS = 0.05  # extra noise to read, because resampling rounds lengths


@dataclass(frozen=True)
class NoiseFilesConfig:
    """Addition of recorded noise (Snyder et al., 2015, arXiv 1510.08484); off by default.

    >>> NoiseFilesConfig(probability=0.3).problems()
    ['lists: name at least one list of noise files, or set probability to 0']
    """

    probability: float = 0.0  # share of utterances with added noise
    lists: tuple[str, ...] = ()  # lists of noise files, with a path or "key path" per line
    snr_db: tuple[float, float] = (5.0, 25.0)  # range of the signal-to-noise ratio, dB

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        found = probability_problems(self.probability) + range_problems("snr_db", self.snr_db, -100, 100)
        if self.probability > 0 and not self.lists:
            found.append("lists: name at least one list of noise files, or set probability to 0")
        return found


class NoiseFiles:
    """Add recorded noise to waveforms, from a random position in a random file, cut or repeated to length.

    Args:
        config: lists, share and levels.
        sample_rate: rate of the waveforms, Hz.

    Raises:
        FileNotFoundError, ValueError: a list or a file is missing or cannot be read.

    >>> noises = NoiseFiles(NoiseFilesConfig(), 16000)
    >>> noises.add(np.ones(3, np.float32), np.random.default_rng(0)).tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, config: NoiseFilesConfig, sample_rate: int) -> None:
        self._config, self._sample_rate = config, sample_rate
        self._files: list[Utterance] = []
        if config.probability > 0:
            option = "data.augmentation.noise_files.lists"
            self._files = [file for path in config.lists for file in read_audio_list(path, option)]

    def add(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the samples (N,), with noise added or unchanged.

        Raises:
            OSError: the noise file cannot be read any more.
        """
        if not self._files:
            return samples
        is_chosen, snr_db = rng.random() < self._config.probability, rng.uniform(*self._config.snr_db)
        file, place = self._files[rng.integers(len(self._files))], rng.random()
        return mix(samples, self._read(file, samples.size, place), snr_db) if is_chosen else samples

    def _read(self, file: Utterance, length: int, place: float) -> np.ndarray:
        """Return `length` samples of noise; `place` is their start, from 0 (first possible) to 1 (last possible)."""
        seconds = length / self._sample_rate + _SPARE_SECONDS
        if seconds >= file.seconds:
            noise = read_segment(file, self._sample_rate)
            return np.resize(np.roll(noise, -int(place * noise.size)), length)
        start = place * (file.seconds - seconds)
        return np.resize(read_segment(file, self._sample_rate, start, start + seconds), length)


def mix(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Return the sum of signal and noise (N,), with noise scaled to the given signal-to-noise ratio.

    If one of the two is silent, the signal does not change.
    """
    power = np.square(samples, dtype=np.float64).mean()
    noise_power = np.square(noise, dtype=np.float64).mean()
    if not noise_power:
        return samples
    return samples + noise * np.float32(np.sqrt(power / 10 ** (snr_db / 10) / noise_power))


def coloured_noise(length: int, pink: bool, rng: np.random.Generator) -> np.ndarray:
    """Return white or pink (power falls as 1/frequency) Gaussian noise, float32 (length,), mean power 1.

    >>> coloured_noise(8000, pink=True, rng=np.random.default_rng(0)).shape
    (8000,)
    """
    white = rng.standard_normal(length)
    if pink:
        spectrum = np.fft.rfft(white)
        spectrum[1:] /= np.sqrt(np.arange(1, spectrum.size))
        white = np.fft.irfft(spectrum, length)
    return (white / max(np.sqrt(np.square(white).mean()), 1e-12)).astype(np.float32)
