"""Random changes to waveforms, drawn from a given generator."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
import torch
import torchaudio

from wenet_fusion.data.augmentation.additive_noise import NoiseFiles, NoiseFilesConfig, coloured_noise
from wenet_fusion.data.augmentation.channels import (
    ClippingConfig,
    LowPassConfig,
    TelephoneConfig,
    clip,
    low_pass,
    telephone,
)
from wenet_fusion.data.augmentation.filtering import below_full_scale
from wenet_fusion.data.augmentation.rooms import RoomConfig, Rooms

_INT16_SCALE = 32768.0


@dataclass(frozen=True)
class Augmentation:
    """Settings of random changes to waveforms; the defaults change nothing.

    >>> Augmentation(speed_factors=(0.9, 1.0, 1.1), gain_db=(-6.0, 6.0)).problems()
    []
    """

    speed_factors: tuple[float, ...] = (1.0,)  # one is drawn per utterance; 1.1: 10 % faster; multiples of 0.01
    gain_db: tuple[float, float] = (0.0, 0.0)  # range of the gain, dB
    noise_snr_db: tuple[float, float] = (10.0, 30.0)  # range of the signal-to-noise ratio, dB
    noise_probability: float = 0.0  # share of utterances with added noise, white or pink with equal probability
    dither: float = 0.0  # standard deviation of white noise in every utterance, in int16 steps; Kaldi uses 1
    room: RoomConfig = field(default_factory=RoomConfig)  # room responses
    noise_files: NoiseFilesConfig = field(default_factory=NoiseFilesConfig)  # recorded noise
    clipping: ClippingConfig = field(default_factory=ClippingConfig)  # clipped samples
    low_pass: LowPassConfig = field(default_factory=LowPassConfig)  # limited bands
    telephone: TelephoneConfig = field(default_factory=TelephoneConfig)  # telephone bands and codecs

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        found = []
        if not self.speed_factors or not all(0.25 <= factor <= 4 for factor in self.speed_factors):
            found.append(f"speed_factors {list(self.speed_factors)} must be one or more numbers from 0.25 to 4")
        for name, (low, high) in (("gain_db", self.gain_db), ("noise_snr_db", self.noise_snr_db)):
            if not low <= high:
                found.append(f"{name} [{low}, {high}] must be [low, high]")
        if not 0 <= self.noise_probability <= 1:
            found.append(f"noise_probability {self.noise_probability} must lie between 0 and 1")
        if not 0 <= self.dither <= 1000:
            found.append(f"dither {self.dither} must lie between 0 and 1000")
        return found


class WaveformAugmenter:
    """Apply the random changes of an `Augmentation` to waveforms.

    Args:
        config: settings of the changes.
        sample_rate: rate of the waveforms, Hz.

    Raises:
        FileNotFoundError, ValueError: a list of noise files or room responses, or a listed file, cannot be read.

    >>> augmenter = WaveformAugmenter(Augmentation(speed_factors=(2.0,)), 16000)
    >>> augmenter.augment(np.zeros(1000, np.float32), np.random.default_rng(0)).shape
    (500,)
    """

    def __init__(self, config: Augmentation, sample_rate: int) -> None:
        self._config, self._sample_rate = config, sample_rate
        self._noises = NoiseFiles(config.noise_files, sample_rate)
        self._rooms = Rooms(config.room, sample_rate)

    def augment(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a copy with changed speed, reverberation, noise, gain, channel effects and dither, in this order.

        A speed factor f divides the length by f. A gain that would clip is lowered. Switching on a change other
        than speed does not affect the random draws of the others.

        Args:
            samples: float32 mono (N,) in [-1, 1].
            rng: generator of all random draws.

        Returns:
            Float32 samples in [-1, 1].

        Raises:
            OSError: a file of noise or of a room response cannot be read any more.
        """
        config, rate = self._config, self._sample_rate
        factor = config.speed_factors[rng.integers(len(config.speed_factors))]
        gain_db = rng.uniform(*config.gain_db)
        snr_db = rng.uniform(*config.noise_snr_db)
        noisy = rng.random() < config.noise_probability
        pink = rng.random() < 0.5
        # One generator for each of these changes; add a new one at the end, so that the others keep their draws.
        rooms, noises, clipping, passing, phoning, dithering = rng.spawn(6)
        out = np.array(samples, dtype=np.float32)
        if not out.size:
            return out
        if factor != 1.0:
            out = _speed(factor)(torch.from_numpy(out)).numpy()
        out = self._noises.add(self._rooms.reverberate(out, rooms), noises)
        if noisy:
            power = np.square(out, dtype=np.float64).mean()
            out = out + coloured_noise(out.size, pink, rng) * np.float32(np.sqrt(power / 10 ** (snr_db / 10)))
        peak = float(np.abs(out).max(initial=0.0))
        out = out * np.float32(min(10 ** (gain_db / 20), 1.0 / max(peak, 1e-9)))
        out = clip(out, config.clipping, clipping)
        out = low_pass(out, rate, config.low_pass, passing)
        out = telephone(out, rate, config.telephone, phoning)
        if config.dither:
            noise = dithering.standard_normal(out.size, np.float32)
            out = below_full_scale(out + noise * np.float32(config.dither / _INT16_SCALE))
        return out


@functools.lru_cache(maxsize=32)
def _speed(factor: float) -> torchaudio.transforms.Resample:
    # torchaudio's Speed builds a filter of gigabytes if factor * rate and rate share no divisor; this filter is small.
    return torchaudio.transforms.Resample(round(100 * factor), 100)
