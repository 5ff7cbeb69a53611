"""Run exported graphs as WeNet's and sherpa-onnx's runtimes do, with our runtime's interface.

Like those runtimes, the emulator relies on the order of a graph's inputs and on its metadata.

Shapes: B = 1 stream, T feature frames of F mel bins, W samples that the front-end keeps, N hypotheses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from wenet_fusion_runtime.model.acoustic_model import AcousticModel, StepScores
from wenet_fusion_runtime.model.metadata import ONNX

from wenet_fusion.export.speech import Speech
from wenet_fusion.export.targets.onnx_graph import session
from wenet_fusion.export.verification import GENERATED_SECONDS, Pair
from wenet_fusion.model.asr_model import SOS_EOS
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.streaming import TOP_TOKENS
from wenet_fusion.trained_model import TrainedModel, acoustic_model

if TYPE_CHECKING:
    import onnxruntime

KEYS = ("chunk_size", "left_chunks", "num_blocks", "head", "output_size", "cnn_module_kernel", "subsampling_rate")


def emulated_pair(trained: TrainedModel, chunking: Chunking, graphs: Sequence[Path], speech: Sequence[Speech]) -> Pair:
    """Open graphs and their checkpoint for a comparison under one chunking, which may be an untrained one.

    Args:
        trained: the checkpoint.
        chunking: the chunking of the graphs; a negative left context keeps all frames.
        graphs: for WeNet: encoder, ctc and decoder; for sherpa-onnx: one graph of encoder and ctc.
        speech: audio that will be compared; its longest utterance sets the chunk size of full context.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    known = acoustic_model(trained)
    meta = known.meta
    longest = max([GENERATED_SECONDS * meta.sample_rate, *(len(utterance.samples) for utterance in speech)])
    frames = -(-(int(longest) + meta.right_padding_samples) // meta.frame_samples)
    size = min(chunking.size, frames)
    left = chunking.left if chunking.left >= 0 else -(-frames // size)
    meta = replace(meta, chunkings=((size, left),), default_chunk=size, default_left=left)
    # The kind is ONNX, because a graph takes one chunk per call, like the graphs in our own archives.
    graph_meta = replace(
        meta, kind=ONNX, decoder=len(graphs) > 1, reverse_decoder=len(graphs) > 1 and meta.reverse_decoder
    )
    return Pair(AcousticModel(known.backend, meta), AcousticModel(RuntimeEmulator(trained, graphs), graph_meta))


class EmulatorState(NamedTuple):
    """The state that a runtime keeps for one stream, and the state of the front-end."""

    samples: torch.Tensor  # state of the front-end
    offset: int  # encoder frames so far, including the zeros that a cache starts with
    att_cache: np.ndarray
    cnn_cache: np.ndarray


class RuntimeEmulator:
    """A `Backend` for one stream, as the emulated runtimes have no batches. The model's front-end computes features.

    Args:
        trained: the checkpoint.
        graphs: see `emulated_pair`.

    >>> [name for name in ("init_state", "step", "rescore") if hasattr(RuntimeEmulator, name)]  # a `Backend`
    ['init_state', 'step', 'rescore']
    """

    def __init__(self, trained: TrainedModel, graphs: Sequence[Path]):
        self.fbank, self.frame_samples = trained.model.fbank, trained.config.model.frontend.frame_samples
        self.silent = math.log(self.fbank.energy_floor) + 1e-5  # largest feature of silence, rounding included
        self.encoder, *rest = [session(path) for path in graphs]
        self.ctc: onnxruntime.InferenceSession | None = rest[0] if rest else None
        self.decoder: onnxruntime.InferenceSession | None = rest[1] if rest else None
        self.known = {key: int(self.encoder.get_modelmeta().custom_metadata_map[key]) for key in KEYS}

    def init_state(self, batch: int, chunk: int, left: int) -> EmulatorState:
        """Return the state before the first sample; the graph's metadata give its sizes."""
        assert batch == 1
        size, left = self.known["chunk_size"], self.known["left_chunks"]
        rows, dim, heads = self.known["num_blocks"], self.known["output_size"], self.known["head"]
        cached = size * left if left > 0 else 0
        att_cache = np.zeros((rows, heads, cached, dim // heads * 2), np.float32)
        cnn_cache = np.zeros((rows, 1, dim, self.known["cnn_module_kernel"] - 1), np.float32)
        return EmulatorState(self.fbank.init_state(1), cached, att_cache, cnn_cache)

    def step(
        self, samples: np.ndarray, lengths: np.ndarray, chunk: int, left: int, state: EmulatorState
    ) -> tuple[StepScores, EmulatorState]:
        """Run one chunk, which may be short at the end of a stream; see `Backend.step`."""
        samples = np.where(np.arange(samples.shape[1]) < lengths[:, None], samples, np.float32(0))
        with torch.no_grad():
            front = self.fbank(torch.from_numpy(samples), state.samples)
        features = front.features_BTF.numpy()
        if lengths[0] < chunk * self.frame_samples:
            features = self._without_silence(features)
        output, att_cache, cnn_cache = self._run_encoder(features, state)
        new = EmulatorState(front.state_BW, state.offset + output.shape[1], att_cache, cnn_cache)
        frames = -(-lengths // self.frame_samples)
        if self.ctc is None:
            return self._scores(output[:, :, :0], output, frames), new
        return self._scores(output, self.ctc.run(None, {"hidden": output})[0], frames), new

    def rescore(self, encoder_out: np.ndarray, hyps: np.ndarray, hyp_lengths: np.ndarray) -> np.ndarray:
        """Return log-probabilities (N, 2) of hypotheses, from both decoders; zeros without a decoder."""
        scores = np.zeros((len(hyps), 2), np.float32)
        if self.decoder is None:
            return scores
        started = np.pad(hyps, ((0, 0), (1, 0)), constant_values=SOS_EOS)
        inputs = {"hyps": started, "hyps_lens": hyp_lengths + 1, "encoder_out": encoder_out}
        outputs = self.decoder.run(None, inputs)
        for side, step in enumerate((1, -1)):
            for row, length in enumerate(hyp_lengths):
                targets = [*hyps[row, :length][::step], SOS_EOS]
                scores[row, side] = outputs[side][row, np.arange(len(targets)), targets].sum()
        return scores

    def concat_states(self, states: Sequence[EmulatorState]) -> EmulatorState:
        """Return the only state."""
        (state,) = states
        return state

    def split_state(self, state: EmulatorState) -> list[EmulatorState]:
        """Return the state as the only row."""
        return [state]

    def _run_encoder(self, features: np.ndarray, state: EmulatorState) -> list[np.ndarray]:
        chunk, left = self.known["chunk_size"], self.known["left_chunks"]
        required, cached = chunk * left, chunk * left if left > 0 else 0
        inputs = self.encoder.get_inputs()
        numbers = [np.full(node.shape, value, np.int64) for node, value in zip(inputs[1:3], (state.offset, required))]
        mask = np.arange(cached + chunk) >= 2 * cached - state.offset
        values = [features, *numbers, state.att_cache, state.cnn_cache, mask[None, None]]
        return self.encoder.run(None, {node.name: value for node, value in zip(inputs, values)})

    def _without_silence(self, features: np.ndarray) -> np.ndarray:
        """Cut silence off a stream's last features, because the graph itself pads the last encoder frame."""
        silent = (features[0] <= self.silent).all(axis=1)[::-1]
        most = self.known["subsampling_rate"] - 1
        missing = int(silent[:most].cumprod().sum())
        return features[:, : features.shape[1] - missing]

    def _scores(self, encoder_out: np.ndarray, log_probs: np.ndarray, frames: np.ndarray) -> StepScores:
        ids = np.argsort(-log_probs, axis=2, kind="stable")[:, :, :TOP_TOKENS]
        best = np.take_along_axis(log_probs, ids, axis=2)
        return StepScores(encoder_out, frames, best, ids, log_probs[:, :, 0])
