"""Send waveforms through poor channels: clipping, low-pass filters, telephone bands and codecs."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from wenet_fusion.data.augmentation.filtering import below_full_scale, limit_band, probability_problems, range_problems

_TELEPHONE_RATE, _TELEPHONE_BAND = 8000, (300.0, 3400.0)  # Hz
# Subtypes of WAV in libsndfile; None: no codec, only the band.
_CODECS = {"pcm": None, "mulaw": "ULAW", "alaw": "ALAW", "gsm": "GSM610", "adpcm": "NMS_ADPCM_32"}


@dataclass(frozen=True)
class ClippingConfig:
    """Clipping of samples at a level; off by default.

    >>> ClippingConfig(probability=0.1, level_db=(-3.0, 3.0)).problems()
    ['level_db [-3.0, 3.0] must be [low, high], from -60 to 0']
    """

    probability: float = 0.0  # share of utterances that are clipped
    level_db: tuple[float, float] = (-12.0, -3.0)  # range of the level, dB relative to the utterance's peak

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        return [*probability_problems(self.probability), *range_problems("level_db", self.level_db, -60, 0)]


@dataclass(frozen=True)
class LowPassConfig:
    """Removal of high frequencies, as by poor microphones and low bit rates; off by default.

    >>> LowPassConfig(probability=0.1).problems()
    []
    """

    probability: float = 0.0  # share of low-pass filtered utterances
    cutoff_hz: tuple[float, float] = (2500.0, 7000.0)  # range of the cutoff frequency, Hz

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        return [*probability_problems(self.probability), *range_problems("cutoff_hz", self.cutoff_hz, 500, 192000)]


@dataclass(frozen=True)
class TelephoneConfig:
    """The band of a telephone, 300 to 3400 Hz, and a codec (Vu et al., APSIPA 2019); off by default.

    >>> TelephoneConfig(codecs=("mulaw", "amr")).problems()
    ["codecs: 'amr' is unknown; known are pcm, mulaw, alaw, gsm, adpcm"]
    """

    probability: float = 0.0  # share of utterances with the sound of a telephone
    codecs: tuple[str, ...] = ("mulaw", "alaw", "gsm", "adpcm")  # one codec is drawn per utterance; pcm: only the band

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        unknown = [codec for codec in self.codecs if codec not in _CODECS]
        found = [f"codecs: {codec!r} is unknown; known are {', '.join(_CODECS)}" for codec in unknown]
        if not self.codecs:
            found.append(f"codecs: name at least one of {', '.join(_CODECS)}")
        return probability_problems(self.probability) + found


def clip(samples: np.ndarray, config: ClippingConfig, rng: np.random.Generator) -> np.ndarray:
    """Return the samples (N,), clipped at a random level below the peak, or unchanged."""
    is_chosen, level_db = rng.random() < config.probability, rng.uniform(*config.level_db)
    if not is_chosen:
        return samples
    level = np.float32(np.abs(samples).max(initial=0.0) * 10 ** (level_db / 20))
    return samples.clip(-level, level)


def low_pass(samples: np.ndarray, sample_rate: int, config: LowPassConfig, rng: np.random.Generator) -> np.ndarray:
    """Return the samples (N,) without frequencies above a random cutoff and in [-1, 1], or unchanged."""
    is_chosen, cutoff = rng.random() < config.probability, rng.uniform(*config.cutoff_hz)
    if not is_chosen or cutoff >= sample_rate / 2:
        return samples
    return below_full_scale(limit_band(samples, sample_rate, 0.0, cutoff))


def telephone(samples: np.ndarray, sample_rate: int, config: TelephoneConfig, rng: np.random.Generator) -> np.ndarray:
    """Return the samples (N,) as sent by telephone with a random codec, without delay and in [-1, 1], or unchanged."""
    is_chosen, codec = rng.random() < config.probability, config.codecs[rng.integers(len(config.codecs))]
    if not is_chosen:
        return samples
    narrow = samples
    if sample_rate != _TELEPHONE_RATE:
        narrow = soxr.resample(samples, sample_rate, _TELEPHONE_RATE, quality="MQ")
    narrow = below_full_scale(limit_band(narrow, _TELEPHONE_RATE, *_TELEPHONE_BAND))
    if subtype := _CODECS[codec]:
        file = io.BytesIO()
        soundfile.write(file, narrow, _TELEPHONE_RATE, format="WAV", subtype=subtype)
        file.seek(0)
        narrow = soundfile.read(file, dtype="float32")[0][: narrow.size]
    if sample_rate != _TELEPHONE_RATE:
        narrow = soxr.resample(narrow, _TELEPHONE_RATE, sample_rate, quality="MQ")
    out = np.zeros(samples.size, np.float32)
    out[: narrow.size] = narrow[: out.size]
    return below_full_scale(out)
