"""Make non-speech for training sets: noise, tones and music."""

from __future__ import annotations

import numpy as np


def noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Return noise of unit power, float32. In half of the cases it is white; otherwise its spectrum falls by up to 6 dB
    per octave, like the noise of air or traffic.
    """
    slope = rng.uniform(0, 1) if rng.random() < 0.5 else 0.0
    if slope:
        size = 1 << max(length - 1, 1).bit_length()  # transforms are slow if a length has large prime factors
        spectrum = np.fft.rfft(rng.standard_normal(size, dtype=np.float32))
        spectrum *= np.maximum(np.arange(len(spectrum), dtype=np.float32), 1) ** np.float32(-slope)
        samples = np.fft.irfft(spectrum)[:length]
    else:
        samples = rng.standard_normal(length, dtype=np.float32)
    return (samples / np.sqrt(np.mean(np.square(samples)) + 1e-12)).astype(np.float32)


def tones(length: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return the sum of one to three sine waves of constant or changing frequency, with a peak of at most 1. In 30 % of
    the cases, the sum is switched on and off like a signal tone.
    """
    time = np.arange(length) / sample_rate
    total = np.zeros(length)
    count = int(rng.integers(1, 4))
    for _ in range(count):
        start = np.exp(rng.uniform(np.log(50), np.log(0.45 * sample_rate)))
        stop = start * (rng.uniform(0.5, 1.1) if rng.random() < 0.3 else 1.0)
        frequency = start + (stop - start) * time / max(time[-1], 1e-3)
        total += np.sin(2 * np.pi * np.cumsum(frequency) / sample_rate) / count
    if rng.random() < 0.3:
        period = rng.uniform(0.2, 1.0)
        total *= (time % period) < period / 2
    return total


def music(length: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return notes with overtones, plucked or held, of unit power; one to four notes start together."""
    total = np.zeros(length)
    beat = rng.uniform(0.12, 1.2)  # seconds
    falloff = rng.uniform(0.5, 2.0)  # overtone n has 1 / n ** falloff of the amplitude of the lowest
    decay, attack = rng.uniform(0.0, 4.0), rng.uniform(0.005, 0.08)
    start = 0
    while start < length:
        seconds = beat * rng.choice([0.5, 1.0, 1.0, 2.0])
        time = np.arange(min(round(1.5 * seconds * sample_rate), length - start)) / sample_rate
        sound = np.zeros(len(time))
        for semitone in rng.integers(0, 37, rng.integers(1, 5)):
            lowest = 80.0 * 2 ** (semitone / 12)
            for overtone in range(1, int(min(12, 0.45 * sample_rate / lowest)) + 1):
                sound += np.sin(2 * np.pi * lowest * overtone * time) / overtone**falloff
        release = np.clip((1.5 * seconds - time) / 0.03, 0, 1)
        total[start : start + len(time)] += (
            sound * np.exp(-decay * time / seconds) * np.minimum(1, time / attack) * release
        )
        start += round(seconds * sample_rate)
    return total / np.sqrt(np.mean(np.square(total)) + 1e-12)
