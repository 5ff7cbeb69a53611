"""Drives exported graphs as WeNet's and sherpa-onnx's runtimes do and compares them with the model in memory.

Knows of a graph only what those runtimes know: the order of its inputs, and its metadata.

Shapes: T feature frames of F mel bins, M encoder frames, D width, V units, N hypotheses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from wenet_fusion.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.deployment import acoustic_model
from wenet_fusion.export.onnx_graph import session
from wenet_fusion.export.verification import Verification, generated_audio, relative_difference, tolerance
from wenet_fusion.models.asr_model import SOS_EOS
from wenet_fusion.recipe import TrainedModel

if TYPE_CHECKING:
    import onnxruntime


class Expected(NamedTuple):
    """What the model in memory makes of the features, all at once."""

    features: np.ndarray  # (1, T, F); T is no multiple of 4
    frames: np.ndarray  # (1, M, D)
    log_probs: np.ndarray  # (1, M, V)


def compare_wenet(trained: TrainedModel, chunking: Chunking, graphs: Sequence[Path], precision: str) -> Verification:
    """Runs encoder, ctc and decoder over generated audio whose last chunk is short, as WeNet's runtime does."""
    encoder, ctc, decoder = (session(path) for path in graphs)
    expected = expect(trained, chunking)
    frames = run_stream(encoder, expected.features)
    log_probs = ctc.run(None, {"hidden": frames})[0]
    hypotheses = [(), (3,), (3, 4, 3)] if expected.log_probs.shape[2] > 4 else [()]
    rescoring = relative_difference(
        run_decoder(decoder, hypotheses, frames), acoustic_model(trained).rescore([expected.frames], hypotheses)
    )
    difference = relative_difference(frames, expected.frames)
    return _verification(log_probs, expected, [difference], rescoring, chunking, precision)


def compare_sherpa(trained: TrainedModel, chunking: Chunking, graph: Path, precision: str) -> Verification:
    """Runs the one graph as sherpa-onnx does, with a short last chunk besides, which that never has."""
    expected = expect(trained, chunking)
    return _verification(run_stream(session(graph), expected.features), expected, [], 0.0, chunking, precision)


def expect(trained: TrainedModel, chunking: Chunking) -> Expected:
    """Features of generated audio, and the model's answer. Its last encoder frame is filled up with digital silence."""
    model, frontend = trained.model, trained.config.model.frontend
    audio = torch.from_numpy(generated_audio(frontend.sample_rate, np.random.default_rng(0)))
    hop = model.fbank.hop_samples
    context = chunking if chunking.left >= 0 else Chunking(chunking.size, FULL_CONTEXT.size)
    with torch.no_grad():
        whole = audio[: audio.numel() // (4 * hop) * 4 * hop - 2 * hop].unsqueeze(0)
        features = model.fbank(whole, model.fbank.init_state(1)).features_BTF
        silence = torch.full((1, 2, features.size(2)), model.fbank.energy_floor).log()
        normalised = model.cmvn(torch.cat([features, silence], dim=1))
        lengths = torch.tensor([normalised.size(1) // 4])
        frames = model.encoder(normalised, lengths, context, model.encoder.init_state(1, 0)).frames_BTD
        return Expected(features.numpy(), frames.numpy(), model.ctc(frames).numpy())


def run_stream(encoder: onnxruntime.InferenceSession, features: np.ndarray) -> np.ndarray:
    """The first outputs of an encoder, chunk after chunk, joined."""
    known = encoder.get_modelmeta().custom_metadata_map
    keys = ("chunk_size", "left_chunks", "num_blocks", "head", "output_size", "cnn_module_kernel", "subsampling_rate")
    chunk, left, rows, heads, dim, kernel, factor = (int(known[key]) for key in keys)
    required, cached = chunk * left, chunk * left if left > 0 else 0
    att_cache = np.zeros((rows, heads, cached, dim // heads * 2), np.float32)
    cnn_cache = np.zeros((rows, 1, dim, kernel - 1), np.float32)
    inputs, offset, outputs = encoder.get_inputs(), cached, []
    window = chunk * factor if chunk > 0 else features.shape[1]
    for start in range(0, features.shape[1], window):
        mask = np.arange(cached + chunk) >= 2 * cached - offset
        numbers = [np.full(node.shape, value, np.int64) for node, value in zip(inputs[1:3], (offset, required))]
        values = [features[:, start : start + window], *numbers, att_cache, cnn_cache, mask[None, None]]
        output, att_cache, cnn_cache = encoder.run(None, {node.name: value for node, value in zip(inputs, values)})
        outputs.append(output)
        offset += output.shape[1]
    return np.concatenate(outputs, axis=1)


def run_decoder(
    decoder: onnxruntime.InferenceSession, hypotheses: Sequence[Sequence[int]], encoder_out: np.ndarray
) -> np.ndarray:
    """Log-probabilities (N, 2) of whole hypotheses, left to right and right to left."""
    lengths = np.array([len(ids) + 1 for ids in hypotheses])
    hyps = np.zeros((len(hypotheses), lengths.max()), np.int64)
    hyps[:, 0] = SOS_EOS
    for row, ids in enumerate(hypotheses):
        hyps[row, 1 : len(ids) + 1] = ids
    outputs = decoder.run(None, {"hyps": hyps, "hyps_lens": lengths, "encoder_out": encoder_out})
    scores = np.zeros((len(hypotheses), 2))
    for side, step in enumerate((1, -1)):
        for row, ids in enumerate(hypotheses):
            targets = [*ids[::step], SOS_EOS]
            scores[row, side] = outputs[side][row, np.arange(len(targets)), targets].sum()
    return scores


def _verification(
    log_probs: np.ndarray, expected: Expected, differences: list[float], rescoring: float, chunking: Chunking,
    precision: str,
) -> Verification:
    allowed = tolerance(precision)
    count = expected.frames.shape[1]
    largest = max([*differences, relative_difference(log_probs, expected.log_probs)])
    different = count
    if log_probs.shape == expected.log_probs.shape:
        best = np.sort(expected.log_probs, axis=2)[:, :, -2:]
        clear = best[:, :, 1] - best[:, :, 0] > (10 * allowed if np.isfinite(allowed) else 0.0)
        different = int(((log_probs.argmax(axis=2) != expected.log_probs.argmax(axis=2)) & clear).sum())
    return Verification(largest, rescoring, count, different, 1, (chunking.size,), allowed)
