"""The acoustic model, which turns samples into scores, both as numpy arrays. A `Backend` runs it.

Shapes: B rows, N samples, T encoder frames, D encoder width, K best tokens of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from wenet_fusion_runtime.model.conformance import Conformance
from wenet_fusion_runtime.model.metadata import DYNAMIC, TORCHSCRIPT, Meta
from wenet_fusion_runtime.search.frame_scores import FrameScores


class StepScores(NamedTuple):
    """Scores of one step. Values past a row's length are undefined."""

    encoder_out: np.ndarray  # (B, T, D) float32, for `AcousticModel.rescore`
    lengths: np.ndarray  # (B,) int64, valid frames
    log_probs: np.ndarray  # (B, T, K) float32, descending
    ids: np.ndarray  # (B, T, K) int64, tokens of `log_probs`
    blank: np.ndarray  # (B, T) float32, log-probability of blank

    def row(self, index: int) -> tuple[FrameScores, np.ndarray]:
        """Return the scores and the encoder output (1, T, D) of the valid frames of one row."""
        length = int(self.lengths[index])
        scores = FrameScores(self.log_probs[index, :length], self.ids[index, :length], self.blank[index, :length])
        return scores, self.encoder_out[index : index + 1, :length]


def join(steps: Sequence[StepScores]) -> StepScores:
    """Concatenate consecutive steps of the same rows along time."""
    if len(steps) == 1:
        return steps[0]
    encoder_out, lengths, *scores = zip(*steps)
    return StepScores(
        np.concatenate(encoder_out, axis=1),
        np.sum(lengths, axis=0),
        *(np.concatenate(parts, axis=1) for parts in scores),
    )


class Backend(Protocol):
    """The interface of a backend, which runs a model with torch, onnxruntime or the native step.

    Arrays have the types and shapes of `StepScores` and `AcousticModel`. A state is an opaque value: only the backend
    reads it, and no call changes it.
    """

    def init_state(self, batch: int, chunk: int, left: int) -> Any:
        """See `AcousticModel.init_state`."""

    def step(
        self, samples: np.ndarray, lengths: np.ndarray, chunk: int, left: int, state: Any
    ) -> tuple[StepScores, Any]:
        """Run clipped samples (B, N) float32 with `lengths` (B,) int64: one chunk, or several if the model allows it.

        The last `Meta.lookahead_samples` of the N samples are context and yield no frames.
        """
        ...

    def rescore(self, encoder_out: np.ndarray, hyps: np.ndarray, hyp_lengths: np.ndarray) -> np.ndarray:
        """Return the scores (H, 2) of H padded hypotheses (H, L) int64 given the encoder output (1, T, D)."""
        ...

    def concat_states(self, states: Sequence[Any]) -> Any:
        """See `AcousticModel.concat_states`."""

    def split_state(self, state: Any) -> list[Any]:
        """See `AcousticModel.split_state`."""
        ...


@runtime_checkable
class ThreadedBackend(Protocol):
    """A backend whose number of threads is a setting of the process, not of the loaded file."""

    def use_one_thread(self) -> None:
        """Use one core in calls from this thread."""


class AcousticModel:
    """A model that was loaded from a file or made in memory. It is read-only, and threads can share it.

    Args:
        backend: runs the model.
        meta: describes the model.
        source: the exported file, for messages; None for a module in memory.
    Raises:
        ModelFault: (all methods) the model does not run as `meta` describes it; the message names the file.

    >>> from types import SimpleNamespace
    >>> backend = SimpleNamespace(rescore=lambda frames, hyps, lengths: np.repeat(-1.0 * lengths[:, None], 2, 1))
    >>> model = AcousticModel(backend, SimpleNamespace(kind="", precision="float32"))
    >>> model.rescore([np.zeros((1, 50, 256))], [(5, 7), (5,)]).tolist()
    [[-2.0, -2.0], [-1.0, -1.0]]
    """

    def __init__(self, backend: Backend, meta: Meta, source: str | None = None) -> None:
        self.backend = backend
        self.meta = meta
        self._conformance = Conformance(meta, source)
        # ONNX graphs and WeNet's TorchScript take one chunk per call. The scales of dynamic int8 depend on the block,
        # so offline decoding must use the blocks of a stream.
        self._chunk_by_chunk = meta.kind != TORCHSCRIPT or meta.precision == DYNAMIC

    def init_state(self, batch: int, chunk: int, left: int) -> Any:
        """Return the state of `batch` rows before their first sample.

        Args:
            batch: rows.
            chunk: encoder frames per chunk.
            left: chunks of left context.
        """
        with self._conformance.calling():
            return self.backend.init_state(batch, chunk, left)

    def step(
        self, samples: np.ndarray, lengths: Sequence[int], chunk: int, left: int, state: Any
    ) -> tuple[StepScores, Any]:
        """Run whole chunks and return their scores and the next state.

        The last chunk of a row may be short; do not use the state after a short chunk.

        Args:
            samples: (B, N) at the model's rate, clipped to [-1, 1]; N is a multiple of `meta.frame_samples`, plus
                `meta.lookahead_samples`.
            lengths: number of valid samples of each row, look-ahead not counted. If a row ends before the look-ahead,
                all samples after its length are ignored.
            chunk: as given to `init_state`.
            left: as given to `init_state`.
            state: from `init_state`, or from the previous step.
        Raises:
            ValueError: N is not such a multiple, a length exceeds N without the look-ahead, or the state has another
                chunk or left context.
        """
        frame, ahead = self.meta.frame_samples, self.meta.lookahead_samples
        count, ends = samples.shape[1] - ahead, np.array(lengths, dtype=np.int64)
        if count <= 0 or count % frame or ends.shape != samples.shape[:1] or ends.min() < 0 or ends.max() > count:
            beyond = f", {ahead} samples of look-ahead" if ahead else ""
            raise ValueError(
                f"a step takes whole frames of {frame} samples{beyond} and for each row a length within them; "
                f"found samples {samples.shape} and lengths {list(lengths)}"
            )
        clipped = np.clip(samples, -1.0, 1.0).astype(np.float32, copy=False)
        for row, end in zip(clipped, ends):
            if end < count:  # the audio of this row ends here, so the samples after it are no look-ahead either
                row[end:] = 0.0
        size, steps = chunk * frame if self._chunk_by_chunk else count, []
        for start in range(0, count, size):
            stop = min(start + size, count)
            block = np.ascontiguousarray(clipped[:, start : stop + ahead])
            # A row that has ended gets length 0.
            valid = (ends - start).clip(0, stop - start)
            with self._conformance.calling():
                scores, state = self.backend.step(block, valid, chunk, left, state)
                self._conformance.check_step(scores, stop - start, valid)
            steps.append(scores)
        return join(steps), state

    def rescore(self, encoder_blocks: Sequence[np.ndarray], hypotheses: Sequence[Sequence[int]]) -> np.ndarray:
        """Score complete hypotheses, including the end of the sentence, with the attention decoders.

        Args:
            encoder_blocks: consecutive encoder outputs (1, T, D) of one segment.
            hypotheses: H token sequences, which may be empty.
        Returns:
            (H, 2) log-probabilities of the left-to-right and the right-to-left decoder; 0 for a decoder that the model
            lacks.
        """
        lengths = np.array([len(ids) for ids in hypotheses], dtype=np.int64)
        padded = np.zeros((len(lengths), lengths.max(initial=1)), dtype=np.int64)  # graphs cannot take an empty axis
        for row, ids in enumerate(hypotheses):
            padded[row, : len(ids)] = ids
        with self._conformance.calling():
            scores = self.backend.rescore(np.concatenate(encoder_blocks, axis=1), padded, lengths)
            self._conformance.check_rescoring(scores, len(lengths))
        return scores.astype(np.float64)

    def concat_states(self, states: Sequence[Any]) -> Any:
        """Join states into one batch. Their positions may differ, but not their chunk size and left context."""
        with self._conformance.calling():
            return self.backend.concat_states(states)

    def split_state(self, state: Any) -> list[Any]:
        """Split a batch into one state per row: the inverse of `concat_states`."""
        with self._conformance.calling():
            return self.backend.split_state(state)

    def warm_up(self, batch: int = 1) -> StepScores:
        """Step `batch` silent rows at every trained chunk size, so that no stream waits for slow first calls.

        First calls are slow once per process and once per thread. The last step has one frame instead of a chunk, as at
        the end of a stream; its scores are returned.
        """
        for chunk in self.meta.chunk_sizes:
            size, left = chunk * self.meta.frame_samples, self.meta.left(chunk)
            silence = np.zeros((batch, size + self.meta.lookahead_samples), dtype=np.float32)
            state = self.concat_states([self.init_state(1, chunk, left) for _ in range(batch)])
            _, state = self.step(silence, [size] * batch, chunk, left, state)
            self.split_state(state)
        end = silence[:, : self.meta.frame_samples + self.meta.lookahead_samples]
        return self.step(end, [1] * batch, chunk, left, state)[0]
