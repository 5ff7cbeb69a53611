"""Generate non-speech: silence, noise, tones, chords, one voice and several voices played backwards."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

OVERTONES = 6
SEMITONE = 2 ** (1 / 12)
CHORDS = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 10), (0, 3, 7, 10), (0, 5, 7))  # semitones above the root


class Sound(NamedTuple):
    """One non-speech recording."""

    kind: str
    label: str  # details of the sound, such as its level
    samples: np.ndarray  # (n,) float32


def nonspeech_sounds(
    sample_rate: int, seconds: float, recordings: Sequence[np.ndarray] = (), seed: int = 0
) -> Iterator[Sound]:
    """Yield every kind of sound at several levels. A level is the RMS in dB relative to full scale, before clipping.

    Args:
        recordings: speech (n,) at `sample_rate` to play backwards; empty: no voices and no babble.
    """
    rng = np.random.default_rng(seed)
    count = int(seconds * sample_rate)
    yield Sound("silence", "digital", np.zeros(count, np.float32))
    for level in (-80, -60, -40, -20):
        yield _sound("white noise", "", level, rng.standard_normal(count))
    for level in (-60, -40, -20):
        yield _sound("pink noise", "", level, _pink(count, rng))
    time = np.arange(count) / sample_rate
    for frequency in (100, 440, 1000, 3000):
        for level in (-40, -10):
            yield _sound("tone", f"{frequency} Hz, ", level, np.sin(2 * np.pi * frequency * time))
    for beat in (0.25, 0.5, 1.0):
        for level in (-40, -25, -12):
            yield _sound("chords", f"{beat:g} s each, ", level, _chords(count, sample_rate, beat, rng))
    for voices in (1, 4, 8) if recordings else ():
        for level in (-40, -25, -15):
            kind, label = ("reversed voice", "") if voices == 1 else ("babble", f"{voices} reversed voices, ")
            yield _sound(kind, label, level, _reversed(count, recordings, voices, rng))


def _sound(kind: str, label: str, level: float, shape: np.ndarray) -> Sound:
    samples = shape * 10 ** (level / 20) / np.sqrt(np.mean(np.square(shape)) + 1e-12)
    return Sound(kind, f"{label}{level} dB", np.clip(samples, -1, 1).astype(np.float32))


def _pink(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return noise whose spectrum falls by 3 dB per octave."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), count)


def _chords(count: int, sample_rate: int, beat: float, rng: np.random.Generator) -> np.ndarray:
    """Return a new chord each beat, fading like a plucked string."""
    total, length = np.zeros(count), int(beat * sample_rate)
    time = np.arange(2 * length) / sample_rate
    for start in range(0, count, length):
        root = 110.0 * SEMITONE ** rng.integers(0, 25)
        notes = [root * SEMITONE**step for step in CHORDS[rng.integers(len(CHORDS))]]
        sound = np.zeros(len(time))
        for note in notes:
            for overtone in range(1, OVERTONES + 1):
                if note * overtone < 0.45 * sample_rate:
                    sound += np.sin(2 * np.pi * note * overtone * time) / overtone
        sound *= np.exp(-2.0 * time / beat) * np.minimum(1.0, time / 0.01)
        stop = min(count, start + len(sound))
        total[start:stop] += sound[: stop - start]
    return total


def _reversed(count: int, recordings: Sequence[np.ndarray], voices: int, rng: np.random.Generator) -> np.ndarray:
    """Return the sum of `voices` sequences of recordings played backwards, all equally loud."""
    total = np.zeros(count)
    for _ in range(voices):
        position = 0
        while position < count:
            recording = recordings[rng.integers(len(recordings))][::-1]
            stop = min(count, position + len(recording))
            loudness = np.sqrt(np.mean(np.square(recording)) + 1e-12)
            total[position:stop] += recording[: stop - position] / loudness
            position = stop
    return total
