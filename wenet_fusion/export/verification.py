"""Verify exported files: compare streams in random cuts, and batches, with one offline step of the checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from wenet_fusion_runtime.model.acoustic_model import AcousticModel, StepScores, join
from wenet_fusion_runtime.stream.offline import offline_step

# Largest allowed difference, relative to the largest value; int8 is judged by its error rate instead. float16 rounds
# each weight by up to 5e-4 of its value: the outputs of a correct model differed by 1.6e-3 with SSE kernels.
FLOAT32_TOLERANCE, FLOAT16_TOLERANCE = 1e-4, 4e-3
FAINT_NOISE = np.float32(3e-5)  # standard deviation: one step of 16-bit samples
GENERATED_SECONDS = 7.3  # ends within a chunk and within a frame


class Pair(NamedTuple):
    """A checkpoint and its exported file, both with the runtime's interface."""

    reference: AcousticModel
    exported: AcousticModel


@dataclass(frozen=True)
class Verification:
    """The largest differences between an exported file and its checkpoint.

    >>> found = Verification(1e-6, 0.0, frames=100, different_tokens=0, utterances=1, chunk_sizes=(16,))
    >>> found.raise_if_different(Path("final.zip"))  # silent: within the tolerance
    >>> found.tolerance
    0.0001
    """

    largest_difference: float  # between encoder outputs and log-probabilities, relative to their largest value
    rescoring_difference: float
    frames: int
    different_tokens: int  # frames whose best token differs; near-ties do not count, see `clear_best`
    utterances: int
    chunk_sizes: tuple[int, ...]
    tolerance: float = FLOAT32_TOLERANCE

    def raise_if_different(self, path: Path) -> None:
        """Raise ValueError, with the numbers, if a difference is larger than the tolerance."""
        worst = max(self.largest_difference, self.rescoring_difference)
        if not np.isfinite(worst):
            raise ValueError(
                f"{path} is not kept: it returns values that are not finite, or of another shape; "
                "export another precision"
            )
        if self.tolerance < np.inf and (worst > self.tolerance or self.different_tokens):
            raise ValueError(
                f"{path} is not kept: it differs from the checkpoint by {worst:.1e} (at most {self.tolerance:.0e} is "
                f"allowed) and in the best token of {self.different_tokens} of {self.frames} frames; "
                "please report this with the configuration"
            )

    def summary(self) -> dict[str, Any]:
        """Return the numbers for meta.json."""
        allowed = self.tolerance if np.isfinite(self.tolerance) else None  # JSON has no infinity
        return {**vars(self), "chunk_sizes": list(self.chunk_sizes), "tolerance": allowed}


def tolerance(precision: str) -> float:
    """Return the largest difference that a precision may cause; infinite for int8."""
    if precision.startswith("int8"):
        return float("inf")
    return FLOAT16_TOLERANCE if precision == "float16-packed" else FLOAT32_TOLERANCE


def verify(
    reference: AcousticModel,
    exported: AcousticModel,
    speech: Sequence[np.ndarray],
    allowed: float = FLOAT32_TOLERANCE,
    batches: bool = True,
) -> Verification:
    """Stream generated audio and `speech` through `exported` in random cuts, at every chunk size of the file.

    The reference computes each utterance in one step. Generated audio contains silence, where the log of the features
    is most sensitive. The speech gets faint noise for the same reason as `generated_audio`: speech that was recorded at
    a lower rate has mel bands without energy.

    Args:
        reference: the checkpoint in memory.
        exported: the file.
        speech: utterances (n,) at the model's rate.
        allowed: largest allowed difference, see `tolerance`.
        batches: also compute all utterances as rows of one batch; ignored if `allowed` is infinite, because the scales
            of int8 may depend on the batch.
    """
    rng = np.random.default_rng(0)
    meta = exported.meta
    noisy = [samples + FAINT_NOISE * rng.standard_normal(len(samples), np.float32) for samples in speech]
    utterances = [generated_audio(meta.sample_rate, rng), *noisy]
    found = []
    for chunk in meta.chunk_sizes:
        left = meta.left(chunk)
        expected = [offline_step(reference, [samples], chunk, left) for samples in utterances]
        for samples, target in zip(utterances, expected):
            scores = _stream(exported, samples, chunk, left, rng)
            found.append(_compare(scores, 0, target, allowed))
            found.append(_compare_rescoring(reference, exported, scores, target))
        if batches and allowed < np.inf:
            together = offline_step(exported, utterances, chunk, left)
            found += [
                _compare(together, row, target, allowed)._replace(frames=0) for row, target in enumerate(expected)
            ]
    largest, rescoring, frames, different = zip(*found)
    return Verification(
        max(largest), max(rescoring), sum(frames), sum(different), len(utterances), tuple(meta.chunk_sizes), allowed
    )


def generated_audio(sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return sweeps and noise with digital silence between them, float32 in [-1, 1].

    Each sweep has faint noise. Without it, mel bands away from the tone would hold only rounding errors, and their logs
    would change completely whenever the order of a sum changes.
    """
    n = int(GENERATED_SECONDS * sample_rate)
    time = np.arange(n) / sample_rate
    sweep = np.sin(2 * np.pi * (100 + 150 * time) * time) * (np.sin(2 * np.pi * 0.9 * time) > 0)
    level = np.where(np.sin(2 * np.pi * 0.31 * time) > 0, 0.05, 1e-3)
    audible = np.sin(2 * np.pi * 0.47 * time) > -0.8
    return ((0.3 * sweep + level * rng.standard_normal(n)) * audible).astype(np.float32)


def relative_difference(value: np.ndarray, target: np.ndarray) -> float:
    """Return the largest difference over the largest value; infinite if shapes differ or a value is not finite."""
    if value.shape != target.shape or not (np.isfinite(value).all() and np.isfinite(target).all()):
        return float("inf")
    return float(np.abs(value - target).max(initial=0.0) / max(np.abs(target).max(initial=0.0), 1e-12))


def clear_best(log_probs: np.ndarray, allowed: float) -> np.ndarray:
    """Return (T,) bool: true for frames whose best token leads by more than rounding can change.

    Args:
        log_probs: (T, K) log-probabilities of the best tokens, descending.
        allowed: see `tolerance`; infinite: true for all frames.
    """
    margin, spread = log_probs[:, 0] - log_probs[:, 1], log_probs[:, 0] - log_probs[:, -1]
    return margin > 10 * allowed * np.maximum(spread, 1.0) if allowed < np.inf else np.ones_like(margin, dtype=bool)


class _Found(NamedTuple):
    difference: float = 0.0
    rescoring: float = 0.0
    frames: int = 0
    different_tokens: int = 0


def _compare(found: StepScores, row: int, target: StepScores, allowed: float) -> _Found:
    scores, expected = _valid(found, row), _valid(target, 0)
    # Compare blank and best tokens together: the log-probabilities of a blank that is always certain are all near 0.
    pairs = [tuple(np.column_stack([step.log_probs, step.blank]) for step in (scores, expected))]
    if scores.encoder_out.shape[1]:  # some files do not return encoder frames
        pairs.append((scores.encoder_out, expected.encoder_out))
    difference, frames = max(relative_difference(*pair) for pair in pairs), len(expected.blank)
    if scores.ids.shape != expected.ids.shape:
        return _Found(difference, frames=frames, different_tokens=frames)
    turned = (scores.ids[:, 0] != expected.ids[:, 0]) & clear_best(expected.log_probs, allowed)
    return _Found(difference, frames=frames, different_tokens=int(turned.sum()))


def _valid(step: StepScores, row: int) -> StepScores:
    """Return the valid frames of one row, without the row's axis."""
    length = step.lengths[row]
    fields = (step.encoder_out, step.log_probs, step.ids, step.blank)
    encoder_out, *scores = (field[row, :length] for field in fields)
    return StepScores(encoder_out, length, *scores)


def _compare_rescoring(
    reference: AcousticModel, exported: AcousticModel, found: StepScores, target: StepScores
) -> _Found:
    if not exported.meta.decoder:
        return _Found()
    hypotheses = [(), (3,), (3, 4, 3)] if len(exported.meta.vocabulary.tokens) > 4 else [()]
    both = (exported, found), (reference, target)
    scores = [model.rescore([step.encoder_out], hypotheses) for model, step in both]
    return _Found(rescoring=relative_difference(*scores))


def _stream(model: AcousticModel, samples: np.ndarray, chunk: int, left: int, rng: np.random.Generator) -> StepScores:
    """Step over audio and the model's right padding in whole chunks, and join the scores."""
    samples = np.pad(samples, (0, model.meta.right_padding_samples))
    state, blocks, start = model.init_state(1, chunk, left), [], 0
    chunk_samples = chunk * model.meta.frame_samples
    while start < len(samples):
        end = start + int(rng.integers(1, 4)) * chunk_samples
        block = samples[start:end]
        padded = np.pad(block, (0, -len(block) % model.meta.frame_samples))
        scores, state = model.step(padded[None], [len(block)], chunk, left, state)
        blocks.append(scores)
        start = end
    return join(blocks)
