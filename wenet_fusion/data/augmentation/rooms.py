"""Add reverberation to waveforms, by recorded or simulated room responses."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from wenet_fusion.data.augmentation.audio_lists import read_audio_list
from wenet_fusion.data.augmentation.filtering import convolve, probability_problems, range_problems
from wenet_fusion.data.sources import Utterance, read_segment

_FIRST_REFLECTION_SECONDS = 0.003
_RAMP_SECONDS = 0.002  # part of a recorded response that is kept before the direct path
_CACHED_RESPONSES = 512


@dataclass(frozen=True)
class RoomConfig:
    """Room responses (Ko et al., ICASSP 2017): recorded, or simulated as decaying noise; off by default.

    >>> RoomConfig(probability=0.3, decay_seconds=(0.0, 0.5)).problems()
    ['decay_seconds [0.0, 0.5] must be [low, high], from 0.01 to 10']
    """

    probability: float = 0.0  # share of utterances with reverberation
    lists: tuple[str, ...] = ()  # lists of recorded responses, with a path or "key path" per line; empty: simulated
    decay_seconds: tuple[float, float] = (0.1, 0.6)  # range of the reverberation time RT60 of simulated rooms, seconds
    direct_db: tuple[float, float] = (0.0, 15.0)  # range of the direct-to-reverberant ratio of simulated rooms, dB

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        return [
            *probability_problems(self.probability),
            *range_problems("decay_seconds", self.decay_seconds, 0.01, 10),
            *range_problems("direct_db", self.direct_db, -60, 60),
        ]


class Rooms:
    """Add reverberation to waveforms. The direct path has no delay, so that words keep their times.

    Args:
        config: lists, share and kinds of rooms.
        sample_rate: rate of the waveforms, Hz.

    Raises:
        FileNotFoundError, ValueError: a list or a file is missing or cannot be read.

    >>> rooms = Rooms(RoomConfig(probability=1.0), 16000)
    >>> rooms.reverberate(np.ones(1000, np.float32), np.random.default_rng(0)).shape
    (1000,)
    """

    def __init__(self, config: RoomConfig, sample_rate: int) -> None:
        self._config, self._sample_rate = config, sample_rate
        self._files: list[Utterance] = []
        if config.probability > 0:
            option = "data.augmentation.room.lists"
            self._files = [file for path in config.lists for file in read_audio_list(path, option)]

    def reverberate(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the samples (N,) with reverberation and the same power, or unchanged.

        Raises:
            OSError: a recorded response cannot be read any more, or is silent.
        """
        if not rng.random() < self._config.probability:
            return samples
        if self._files:
            taps, centre = _recorded(self._files[rng.integers(len(self._files))], self._sample_rate)
        else:
            taps, centre = simulated_response(self._config, self._sample_rate, rng), 0
        out = convolve(samples, taps, centre)
        power, before = (np.square(signal, dtype=np.float64).mean() for signal in (out, samples))
        return out * np.float32(np.sqrt(before / power)) if power else out


def simulated_response(config: RoomConfig, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a room response, float32 (M,): the direct path, then noise that decays exponentially."""
    decay, ratio = rng.uniform(*config.decay_seconds), 10 ** (rng.uniform(*config.direct_db) / 10)
    times = np.arange(max(2, int(decay * sample_rate))) / sample_rate
    taps = rng.standard_normal(times.size) * 10 ** (-3 * times / decay)
    taps[times < min(_FIRST_REFLECTION_SECONDS, times[-1])] = 0.0
    taps /= np.sqrt(np.square(taps).sum() * ratio)
    taps[0] = 1.0
    return taps.astype(np.float32)


@functools.lru_cache(maxsize=_CACHED_RESPONSES)
def _recorded(file: Utterance, sample_rate: int) -> tuple[np.ndarray, int]:
    """Return a recorded response and the index of its direct path."""
    taps = read_segment(file, sample_rate)
    direct = int(np.abs(taps).argmax())
    if not taps[direct]:
        raise OSError(f"{file.key}: has only silence; take it out of data.augmentation.room.lists")
    begin = max(0, direct - int(_RAMP_SECONDS * sample_rate))
    return taps[begin:], direct - begin
