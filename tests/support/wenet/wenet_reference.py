"""The scores of WeNet's C++ programs, emulated by `wenet_runtime.py`, and the scores of our runtime."""

from __future__ import annotations

import numpy as np
from support.model.wenet_runtime import AsrModel, SherpaModel
from wenet_fusion_runtime import AcousticModel
from wenet_fusion_runtime.stream.offline import offline_step


def padded(model: AcousticModel, samples: np.ndarray) -> np.ndarray:
    """Return the audio with our runtime's padding, up to the last sample that the last encoder frame reads."""
    meta = model.meta
    frames = -(-(len(samples) + meta.right_padding_samples) // meta.frame_samples)
    return np.pad(samples, (0, frames * meta.frame_samples + meta.lookahead_samples - len(samples)))


def reference_log_probs(model: AcousticModel, driver: AsrModel | SherpaModel, samples: np.ndarray) -> np.ndarray:
    """Return log-probabilities (M, V) of the padded audio, whose features are computed in one piece."""
    return driver.decode(model.backend.features(padded(model, samples)))


def own_log_probs(model: AcousticModel, samples: np.ndarray, chunk: int, left: int) -> np.ndarray:
    """Return our log-probabilities (M, V); the vocabulary is so small that the step returns all of a frame."""
    scores, _ = offline_step(model, [samples], chunk, left).row(0)
    found = np.zeros_like(scores.log_probs)
    np.put_along_axis(found, scores.ids, scores.log_probs, axis=1)
    return found


def assert_equal(found: np.ndarray, expected: np.ndarray, bound: float = 1e-4) -> None:
    """Check that all frames are equal, except a last window of one frame, which the reference skips."""
    assert 0 <= len(found) - len(expected) <= 1
    assert np.abs(found[: len(expected)] - expected).max() < bound


def noise(rng: np.random.Generator, most: int = 60000) -> np.ndarray:
    """Return noise of random length whose loudness changes."""
    length = int(rng.integers(1, most))
    level = np.repeat(10.0 ** rng.uniform(-4, -0.5, length // 2000 + 1), 2000)[:length]
    return (rng.standard_normal(length) * level).clip(-1, 1).astype(np.float32)
