"""The backend of WeNet's models, which computes features and runs one row at a time, as WeNet's runtimes do.

Shapes: B rows, N samples, T feature frames of F bins, M encoder frames, D width, V tokens, H hypotheses, L tokens each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from wenet_fusion_runtime.model.acoustic_model import StepScores
from wenet_fusion_runtime.model.conformance import Mismatch
from wenet_fusion_runtime.model.wenet.kaldi_features import FeatureSettings, KaldiFeatures

MOST_FRAMES = 5000  # number of positions of WeNet's encoders; older exports do not accept the last one
TOP_TOKENS = 20  # most probable tokens of a frame that the search gets


class Geometry(NamedTuple):
    """The geometry of an encoder's feature frames, and the model's special tokens.

    >>> Geometry(4, 6, 2, 2, True).window(16)
    67
    """

    subsampling: int  # feature frames per encoder frame
    right_context: int  # feature frames that an encoder frame reads after its first one
    sos: int
    eos: int
    is_bidirectional: bool

    def window(self, frames: int) -> int:
        """Return the feature frames that `frames` encoder frames read."""
        return (frames - 1) * self.subsampling + self.right_context + 1

    def lookahead(self, settings: FeatureSettings) -> int:
        """Return the number of samples that a chunk reads after those of its own encoder frames."""
        return settings.samples(self.window(1)) - self.subsampling * settings.shift_samples


class GraphState(NamedTuple):
    """The state of one stream, as WeNet's runtimes keep it."""

    offset: int  # encoder frames so far, plus the zeros with which the cache started
    att_cache: Any
    cnn_cache: Any


class Graphs(Protocol):
    """A model's own functions, for one row."""

    def fresh(self, chunk: int, left: int) -> GraphState:
        """Return the state before the first frame."""
        ...

    def encode(
        self, features: np.ndarray, chunk: int, left: int, state: GraphState
    ) -> tuple[np.ndarray, np.ndarray, GraphState]:
        """Run features (1, T, F); return encoder frames (1, M, D), log-probabilities (1, M, V) and the next state."""
        ...

    def decode(self, hyps: np.ndarray, lengths: np.ndarray, encoder_out: np.ndarray) -> Sequence[np.ndarray]:
        """Return the log-probabilities (H, L, V) of the next tokens, left to right and right to left.

        The hypotheses (H, L) begin with sos, which the lengths include. Without a right-to-left decoder the second
        array is ignored.
        """
        ...

    def use_one_thread(self) -> None:
        """Use one core in calls from this thread."""


class RowBackend:
    """A runtime `Backend` that runs the rows of a batch one after the other.

    A state whose positions would run out is replaced by a fresh one.

    Args:
        graphs: the functions of the model.
        geometry: geometry of its encoder.
        features: computes the encoder's input.
        has_decoder: whether `graphs.decode` can be called.

    >>> names = ("init_state", "step", "rescore", "concat_states", "split_state")
    >>> all(hasattr(RowBackend, name) for name in names)  # a `Backend`
    True
    """

    def __init__(self, graphs: Graphs, geometry: Geometry, features: KaldiFeatures, has_decoder: bool) -> None:
        self.graphs, self.geometry, self.features = graphs, geometry, features
        self._has_decoder = has_decoder
        self._frame_samples = geometry.subsampling * features.settings.shift_samples
        self._lookahead = geometry.lookahead(features.settings)

    def init_state(self, batch: int, chunk: int, left: int) -> tuple[GraphState, ...]:
        """Return a fresh state for each row; see `Backend`.

        Raises:
            ValueError: the chunk has at least as many frames as the model has positions.
        """
        if chunk >= MOST_FRAMES:
            raise ValueError(f"chunk {chunk} must be less than {MOST_FRAMES} frames: WeNet's positions end there")
        return tuple(self.graphs.fresh(chunk, left) for _ in range(batch))

    def step(
        self, samples: np.ndarray, lengths: np.ndarray, chunk: int, left: int, state: tuple[GraphState, ...]
    ) -> tuple[StepScores, tuple[GraphState, ...]]:
        """Run one chunk of each row; a chunk may be short. See `Backend`."""
        frames = -(-lengths // self._frame_samples)
        most = (samples.shape[1] - self._lookahead) // self._frame_samples
        outputs: list[tuple[np.ndarray, ...] | None] = []
        states = []
        for row, old in enumerate(state):
            if frames[row]:
                block = samples[row, : int(frames[row]) * self._frame_samples + self._lookahead]
                encoder_out, log_probs, old = self._encode(block, int(frames[row]), chunk, left, old)
                outputs.append((encoder_out, *_top_tokens(log_probs), log_probs[:, :, 0]))
            else:
                outputs.append(None)
            states.append(old)
        if not frames.any():  # all rows have ended: run silence for the shapes of the arrays, then drop its frames
            encoder_out, log_probs, _ = self._silence(chunk, left)
            outputs.append((encoder_out, *_top_tokens(log_probs), log_probs[:, :, 0]))
        filled = _filled(outputs)[: len(state)]
        encoder_out, log_probs, ids, blank = (_stacked(parts, most) for parts in zip(*filled))
        return StepScores(encoder_out, frames, log_probs, ids, blank), tuple(states)

    def rescore(self, encoder_out: np.ndarray, hyps: np.ndarray, hyp_lengths: np.ndarray) -> np.ndarray:
        """Return the log-probabilities (H, 2) of whole hypotheses; zeros for a decoder that the model lacks."""
        scores = np.zeros((len(hyps), 2), np.float32)
        if not self._has_decoder:
            return scores
        # Graphs cannot score a batch in which all hypotheses are empty, so add one with a single token.
        lengths = np.append(hyp_lengths, 1)
        started = np.zeros((len(lengths), int(lengths.max()) + 1), np.int64)
        started[:, 0] = self.geometry.sos
        started[:-1, 1:] = hyps[:, : started.shape[1] - 1]
        outputs = self.graphs.decode(started, lengths + 1, encoder_out)
        for side, step in enumerate((1, -1)[: 1 + self.geometry.is_bidirectional]):
            for row, length in enumerate(hyp_lengths):
                targets = [*hyps[row, :length][::step], self.geometry.eos]
                scores[row, side] = outputs[side][row, np.arange(len(targets)), targets].sum()
        return scores

    def concat_states(self, states: Sequence[tuple[GraphState, ...]]) -> tuple[GraphState, ...]:
        """Return the rows of all states."""
        return tuple(row for state in states for row in state)

    def split_state(self, state: tuple[GraphState, ...]) -> list[tuple[GraphState, ...]]:
        """Return a state for each row."""
        return [(row,) for row in state]

    def vocabulary_size(self, chunk: int, left: int) -> int:
        """Run two frames of silence; return the number of tokens that the model scores.

        Raises:
            Mismatch: see `_encode`; two frames are enough to detect an encoder whose layers drop every second frame.
        """
        return self._silence(chunk, left, min(2, chunk))[1].shape[2]

    def use_one_thread(self) -> None:
        """Use one core in calls from this thread."""
        self.graphs.use_one_thread()

    def _silence(self, chunk: int, left: int, frames: int = 1) -> tuple[np.ndarray, np.ndarray, GraphState]:
        silence = np.zeros(frames * self._frame_samples + self._lookahead, np.float32)
        return self._encode(silence, frames, chunk, left, self.graphs.fresh(chunk, left))

    def _encode(
        self, samples: np.ndarray, frames: int, chunk: int, left: int, state: GraphState
    ) -> tuple[np.ndarray, np.ndarray, GraphState]:
        """Run a chunk. Raises `Mismatch` if the encoder does not return `frames` frames."""
        # Graphs may run whole chunks even for fewer frames.
        if state.offset + max(frames, chunk) >= MOST_FRAMES:
            state = self.graphs.fresh(chunk, left)
        features = self.features(samples)
        assert len(features) == self.geometry.window(frames)
        encoder_out, log_probs, state = self.graphs.encode(features[None], chunk, left, state)
        if encoder_out.shape[1] != frames:
            what = f"the number of encoder frames of {len(features)} feature frames"
            raise Mismatch(what, encoder_out.shape[1], frames)
        return encoder_out, log_probs, state


def _top_tokens(log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the K best of the log-probabilities (1, M, V), descending, and their tokens, each (1, M, K)."""
    count = min(TOP_TOKENS, log_probs.shape[2])
    ids = np.argpartition(-log_probs, count - 1, axis=2)[:, :, :count]
    best = np.take_along_axis(log_probs, ids, axis=2)
    order = np.argsort(-best, axis=2, kind="stable")
    return np.take_along_axis(best, order, axis=2), np.take_along_axis(ids, order, axis=2)


def _filled(outputs: Sequence[tuple[np.ndarray, ...] | None]) -> list[tuple[np.ndarray, ...]]:
    """Return the outputs of all rows; rows that have ended (None) get arrays of 0 frames."""
    known = next(output for output in outputs if output is not None)
    return [tuple(part[:, :0] for part in known) if output is None else output for output in outputs]


def _stacked(parts: Sequence[np.ndarray], frames: int) -> np.ndarray:
    """Join rows (1, M, ...) into an array (B, frames, ...), with zeros after the frames of each row."""
    whole = np.zeros((len(parts), frames, *parts[0].shape[2:]), parts[0].dtype)
    for row, part in zip(whole, parts):
        row[: part.shape[1]] = part[0]
    return whole
