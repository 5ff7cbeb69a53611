"""The model as the searches see it: samples in, scores out, all numpy. Knows neither files nor what runs the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from wenet_fusion_runtime.model.metadata import DYNAMIC, ONNX, Meta
from wenet_fusion_runtime.search.greedy import FrameScores


class StepScores(NamedTuple):
    """What one step returns for B rows of T frames; frames past a row's length mean nothing."""

    encoder_out: np.ndarray  # (B, T, D) float32, for `AcousticModel.rescore`
    lengths: np.ndarray  # (B,) int64 valid frames
    log_probs: np.ndarray  # (B, T, K) float32, descending
    ids: np.ndarray  # (B, T, K) int64
    blank: np.ndarray  # (B, T) float32

    def row(self, index: int) -> tuple[FrameScores, np.ndarray]:
        """The valid frames of one row: scores, and encoder output (1, T, D).

        Raises:
            ValueError: the model returned NaN.
        """
        length = int(self.lengths[index])
        scores = FrameScores(self.log_probs[index, :length], self.ids[index, :length], self.blank[index, :length])
        if np.isnan(scores.blank).any():
            raise ValueError("the model's output is not a number; the model is damaged or its training diverged")
        return scores, self.encoder_out[index : index + 1, :length]


def join(steps: Sequence[StepScores]) -> StepScores:
    """Consecutive steps of the same rows as one."""
    if len(steps) == 1:
        return steps[0]
    encoder_out, lengths, *scores = zip(*steps)
    return StepScores(
        np.concatenate(encoder_out, axis=1),
        np.sum(lengths, axis=0),
        *(np.concatenate(parts, axis=1) for parts in scores),
    )


class Backend(Protocol):
    """What runs a model. Arrays have the types that their names have in `StepScores` and `AcousticModel`; a state is a
    value that only the backend looks into, and that no call changes."""

    def init_state(self, batch: int, chunk: int, left: int) -> Any: ...

    def step(
        self, samples: np.ndarray, lengths: np.ndarray, chunk: int, left: int, state: Any
    ) -> tuple[StepScores, Any]: ...

    def rescore(self, encoder_out: np.ndarray, hyps: np.ndarray, hyp_lengths: np.ndarray) -> np.ndarray: ...

    def concat_states(self, states: Sequence[Any]) -> Any: ...

    def split_state(self, state: Any) -> list[Any]: ...


class AcousticModel:
    """A model, loaded from a file or in memory. Read-only, shareable between threads.

    Args:
        backend: what runs it.
        meta: what it says about itself.
    """

    def __init__(self, backend: Backend, meta: Meta) -> None:
        self.backend = backend
        self.meta = meta
        # A graph takes one chunk per call, and int8 scales that follow the block must not see more than a stream does.
        self._chunk_by_chunk = meta.kind == ONNX or meta.precision == DYNAMIC

    def init_state(self, batch: int, chunk: int, left: int) -> Any:
        """State before the first sample of `batch` rows, an opaque value."""
        return self.backend.init_state(batch, chunk, left)

    def step(
        self, samples: np.ndarray, lengths: Sequence[int], chunk: int, left: int, state: Any
    ) -> tuple[StepScores, Any]:
        """Run whole chunks, only the last of a row may be short; returns scores and the state after them.

        Args:
            samples: (B, N) at the model's rate, clipped to [-1, 1]; N is a multiple of `meta.frame_samples`.
            lengths: valid samples of each row; what follows them is ignored. After a short chunk the state is unusable.
            chunk, left: the values given to `init_state`.
        Raises:
            ValueError: the samples are no whole frames, a length is beyond them, or the state is of another chunking.
        """
        frame, count, ends = self.meta.frame_samples, samples.shape[1], np.array(lengths, dtype=np.int64)
        if count == 0 or count % frame or ends.shape != samples.shape[:1] or ends.min() < 0 or ends.max() > count:
            raise ValueError(
                f"a step takes whole frames of {frame} samples and a length for each row that is not beyond "
                f"them; found samples {samples.shape} and lengths {list(lengths)}"
            )
        clipped = np.clip(samples, -1.0, 1.0).astype(np.float32, copy=False)
        size, steps = chunk * frame if self._chunk_by_chunk else count, []
        for start in range(0, count, size):
            block = np.ascontiguousarray(clipped[:, start : start + size])
            # A row that has ended goes on with no samples.
            scores, state = self.backend.step(block, (ends - start).clip(0, block.shape[1]), chunk, left, state)
            steps.append(scores)
        return join(steps), state

    def rescore(self, encoder_blocks: Sequence[np.ndarray], hypotheses: Sequence[Sequence[int]]) -> np.ndarray:
        """Log-probabilities (N, 2) of whole hypotheses, end included, from both attention decoders; 0 from one that the
        model lacks.

        Args:
            encoder_blocks: consecutive encoder outputs (1, T, D) of one segment.
            hypotheses: N token sequences, which may be empty.
        """
        lengths = np.array([len(ids) for ids in hypotheses], dtype=np.int64)
        padded = np.zeros((len(lengths), lengths.max(initial=1)), dtype=np.int64)  # spares graphs an axis of size 0
        for row, ids in enumerate(hypotheses):
            padded[row, : len(ids)] = ids
        scores = self.backend.rescore(np.concatenate(encoder_blocks, axis=1), padded, lengths)
        return scores.astype(np.float64)

    def concat_states(self, states: Sequence[Any]) -> Any:
        """Rows of several states as one: they may be out of step, but share one chunk and left context."""
        return self.backend.concat_states(states)

    def split_state(self, state: Any) -> list[Any]:
        """The inverse of `concat_states`: one state for each row."""
        return self.backend.split_state(state)

    def warm_up(self, batch: int = 1) -> StepScores:
        """Step `batch` silent rows at every trained chunk size, which pays what first calls cost, in the process and in
        the calling thread; returns the last step."""
        for chunk in self.meta.chunk_sizes:
            silence, left = np.zeros((batch, chunk * self.meta.frame_samples), dtype=np.float32), self.meta.left(chunk)
            state = self.concat_states([self.init_state(1, chunk, left) for _ in range(batch)])
            scores, state = self.step(silence, [silence.shape[1]] * batch, chunk, left, state)
            self.split_state(state)
        return scores
