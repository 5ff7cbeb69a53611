"""Load a random model, and step streams of noise through it."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from support.native import vectors
from support.native.random_fused import Fused


def stream(model: Any, audio: np.ndarray, chunks: Sequence[int], cached: int) -> list[Any]:
    """Return the outputs of one or more streams (B, N), cut into chunks of these numbers of frames."""
    return [output for output, _ in steps(model, audio, chunks, cached)]


def steps(model: Any, audio: np.ndarray, chunks: Sequence[int], cached: int) -> list[tuple[Any, Any]]:
    """Return output and state after each chunk; see `stream`."""
    state, start, found = model.init_state(len(audio), cached), 0, []
    for frames in chunks:
        samples = audio[:, start : start + frames * model.sizes.frame_samples]
        lengths = np.full(len(audio), samples.shape[1])
        output, state = model.step(samples, lengths, cached, state)
        found.append((output, state))
        start += samples.shape[1]
    return found


def noise(model: Any, seed: int, streams: int, frames: int) -> np.ndarray:
    return vectors.noise(model.sizes.frame_samples, seed, streams, frames)


def load(kernels: ModuleType, model: Fused, family: str | None = None) -> Any:
    return kernels.FusedModel(*model, family)


def written(state: Any) -> list[np.ndarray]:
    """Return the arrays of a state; of its past, the newest block."""
    return [part.memory for stream in state for part in (stream.rolling, *stream.past[-1:])]


def fresh(model: Any) -> Any:
    return model.init_state(1, 8)
