"""Compares an exported file with the model in memory: audio in random cuts against one offline step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wenet_fusion_runtime.acoustic_model import AcousticModel, StepScores

# Largest difference allowed, relative to the largest value. int8 is judged by its error rate instead.
FLOAT32_TOLERANCE, FLOAT16_TOLERANCE = 1e-4, 1e-3
GENERATED_SECONDS = 7.3  # ends in the middle of a chunk and of a frame


@dataclass(frozen=True)
class Verification:
    """Worst case over everything compared."""

    largest_difference: float  # of encoder outputs, relative to their largest value
    rescoring_difference: float
    frames: int
    different_tokens: int  # frames whose best token differs
    utterances: int
    chunk_sizes: tuple[int, ...]
    tolerance: float = FLOAT32_TOLERANCE

    def raise_if_different(self, path: Path) -> None:
        """Raises ValueError with the numbers."""
        worst = max(self.largest_difference, self.rescoring_difference)
        if not np.isfinite(worst):
            raise ValueError(f"{path} is not kept: it returns values that are not finite, or of another shape; export another precision")
        if self.tolerance < np.inf and (worst > self.tolerance or self.different_tokens):
            raise ValueError(
                f"{path} is not kept: it differs from the checkpoint by {worst:.1e} (at most {self.tolerance:.0e} is allowed) and in "
                f"the best token of {self.different_tokens} of {self.frames} frames; please report this with the configuration"
            )

    def summary(self) -> dict[str, Any]:
        allowed = self.tolerance if np.isfinite(self.tolerance) else None  # JSON knows no infinity
        return {**vars(self), "chunk_sizes": list(self.chunk_sizes), "tolerance": allowed}


def tolerance(precision: str) -> float:
    """What a precision may change; infinite for int8."""
    if precision.startswith("int8"):
        return float("inf")
    return FLOAT16_TOLERANCE if precision == "float16-packed" else FLOAT32_TOLERANCE


def verify(
    reference: AcousticModel, exported: AcousticModel, speech: Sequence[np.ndarray], allowed: float = FLOAT32_TOLERANCE
) -> Verification:
    """Streams generated audio and `speech` through `exported` in random cuts, at every chunk size it serves.

    The reference computes each utterance in one step. Silence is part of the generated audio: it is where the log
    of the features is most sensitive.
    """
    rng = np.random.default_rng(0)
    meta = exported.meta
    utterances = [generated_audio(meta.sample_rate, rng), *speech]
    differences, rescoring, frames, different = [0.0], [0.0], 0, 0
    for chunk in meta.chunk_sizes:
        left = meta.left(chunk)
        for samples in utterances:
            expected, _ = _step(reference, samples, chunk, left, reference.init_state(1, 1, 0))
            blocks = _stream(exported, samples, chunk, left, rng)
            whole = np.concatenate([block.encoder_out for block in blocks], axis=1)
            target = expected.encoder_out
            differences.append(relative_difference(whole, target))
            best = np.concatenate([block.ids[0, :, 0] for block in blocks])
            clear = _clear_margin(expected, allowed)
            different += int(((best != expected.ids[0, :, 0]) & clear).sum())
            frames += target.shape[1]
            hypotheses = [(), (3,), (3, 4, 3)] if len(meta.units.tokens) > 4 else [()]
            rescoring.append(
                relative_difference(
                    exported.rescore([block.encoder_out for block in blocks], hypotheses),
                    reference.rescore([expected.encoder_out], hypotheses),
                )
            )
    return Verification(
        max(differences), max(rescoring), frames, different, len(utterances), tuple(meta.chunk_sizes), allowed
    )


def generated_audio(sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Sweeps and noise with digital silence between them, float32 in [-1, 1].

    A faint noise lies under each sweep: beside a pure tone the mel energies are rounding errors of the tone, and their
    logs differ in the first digit between any two ways to sum.
    """
    n = int(GENERATED_SECONDS * sample_rate)
    time = np.arange(n) / sample_rate
    sweep = np.sin(2 * np.pi * (100 + 150 * time) * time) * (np.sin(2 * np.pi * 0.9 * time) > 0)
    level = np.where(np.sin(2 * np.pi * 0.31 * time) > 0, 0.05, 1e-3)
    audible = np.sin(2 * np.pi * 0.47 * time) > -0.8
    return ((0.3 * sweep + level * rng.standard_normal(n)) * audible).astype(np.float32)


def relative_difference(value: np.ndarray, target: np.ndarray) -> float:
    """Largest difference divided by the largest value; infinite for different shapes or where one is not finite."""
    if value.shape != target.shape or not (np.isfinite(value).all() and np.isfinite(target).all()):
        return float("inf")
    return float(np.abs(value - target).max(initial=0.0) / max(np.abs(target).max(initial=0.0), 1e-12))


def _clear_margin(scores: StepScores, allowed: float) -> np.ndarray:
    """Frames whose best token wins by more than rounding could turn, seen beside the spread of the frame's scores; all
    frames where anything is allowed."""
    log_probs = scores.log_probs[0]
    margin, spread = log_probs[:, 0] - log_probs[:, 1], log_probs[:, 0] - log_probs[:, -1]
    return margin > 10 * allowed * np.maximum(spread, 1.0) if allowed < np.inf else np.ones_like(margin, dtype=bool)


def _step(model: AcousticModel, samples: np.ndarray, chunk: int, left: int, state: Any) -> tuple[StepScores, Any]:
    padded = np.pad(samples, (0, -len(samples) % model.meta.frame_samples))
    return model.step(padded[None], [len(samples)], chunk, left, state)


def _stream(model: AcousticModel, samples: np.ndarray, chunk: int, left: int, rng: np.random.Generator) -> list[StepScores]:
    state, blocks, start = model.init_state(1, chunk, left), [], 0
    chunk_samples = chunk * model.meta.frame_samples
    while start < len(samples):
        end = start + int(rng.integers(1, 4)) * chunk_samples
        scores, state = _step(model, samples[start:end], chunk, left, state)
        blocks.append(scores)
        start = end
    return blocks
