"""Writes encoder.onnx, ctc.onnx and decoder.onnx for WeNet's onnxruntime runtime, verified. Knows no TorchScript.

WeNet hands over features and two caches; `WenetModel` says how they hold our state. The encoder's graph is shared with
sherpa-onnx, which wants the same inputs in the same order.

Shapes: T feature frames, M encoder frames of a call, C cached frames, S = C + M keys, N hypotheses, U tokens, V units.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wenet_fusion.chunking import FULL_CONTEXT, Chunking, chunking_label
from wenet_fusion.deployment import acoustic_model, fused_model
from wenet_fusion.export.onnx_graph import quantise_dynamic, session, write_onnx
from wenet_fusion.export.verification import TOLERANCE, generated_audio, relative_difference
from wenet_fusion.files import replacing, write_text
from wenet_fusion.models.asr_model import SOS_EOS
from wenet_fusion.models.wenet import WenetModel
from wenet_fusion.recipe import TrainedModel
from wenet_fusion.text.tokenizer import Tokenizer
from wenet_fusion.text.vocabulary import format_vocabulary
from wenet_fusion_runtime.units import RESERVED, WORD_START

Precision = Literal["float32", "int8"]
GRAPHS = ("encoder", "ctc", "decoder")
ALL_LEFT = Chunking(1 << 20, 0).size  # chunks: more than any stream that is verified has
INT8_TOLERANCE = 0.5  # int8 is judged by error rates; a graph that computes something else differs by 1 and more
UNITS = "units.txt"


@dataclass(frozen=True)
class Comparison:
    """A graph, driven as its runtime drives it, beside the model in memory."""

    largest_difference: float  # of log-probabilities, relative to their largest value
    frames: int
    different_tokens: int  # frames whose best token differs though it wins clearly

    def raise_if_different(self, path: Path, precision: Precision) -> None:
        """Raises ValueError with the numbers."""
        tolerance = INT8_TOLERANCE if precision == "int8" else TOLERANCE
        if not self.largest_difference <= tolerance or (precision != "int8" and self.different_tokens):
            raise ValueError(
                f"{path} is not kept: it differs from the checkpoint by {self.largest_difference:.1e} (at most {tolerance:.0e} "
                f"is allowed) and in the best token of {self.different_tokens} of {self.frames} frames; please report this "
                f"with the configuration"
            )


@dataclass(frozen=True)
class ForeignExport:
    """What was written for another project's runtime."""

    files: tuple[Path, ...]
    metadata: dict[str, str]  # of the encoder's graph
    comparison: Comparison
    command: str  # runs the files
    remarks: tuple[str, ...]  # what the other runtime does differently from training; worth showing to the user


def export_wenet_onnx(
    trained: TrainedModel, directory: Path, chunking: Chunking, precision: Precision = "float32"
) -> ForeignExport:
    """Exports a trained model into a folder that WeNet's `decoder_main --onnx_dir` takes.

    Every graph is driven as the C++ runtime drives it and compared with the model in memory before it takes its place.

    Args:
        trained: the checkpoint.
        directory: gets encoder.onnx, ctc.onnx, decoder.onnx and units.txt.
        chunking: the runtime must be started with it. A negative left context keeps all that was heard; one chunk longer
            than any utterance becomes WeNet's chunk size -1.
        precision: "int8" writes encoder.quant.onnx and so on beside the others.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        ValueError: the runtime cannot run such a model, or a graph does not reproduce it; nothing is kept then.
    """
    check_front_end(trained, directory)
    if trained.model.decoder is None:
        raise ValueError(
            f"{directory} is not written: WeNet's onnxruntime runtime loads decoder.onnx and {trained.path} has no attention "
            f"decoder; export for sherpa-onnx, or as TorchScript, which WeNet's libtorch runtime loads"
        )
    if chunking.size < 2:
        raise ValueError(f"{directory} is not written: WeNet's runtime passes over chunks of {chunking.size} frame; use 2 or more")
    model = wenet_model(trained)
    metadata = describe(model, trained, chunking) | {"output_dir": directory.name}
    directory.mkdir(parents=True, exist_ok=True)
    suffixes = [".onnx"] if precision == "float32" else [".onnx", ".quant.onnx"]
    files = {(name, suffix): directory / f"{name}{suffix}" for suffix in suffixes for name in GRAPHS}
    with ExitStack() as stack:
        parts = {key: stack.enter_context(replacing(path)) for key, path in files.items()}
        exact = [parts[name, ".onnx"] for name in GRAPHS]
        write_encoder(masked_or_growing(model, chunking), ENCODER_NAMES, exact[0], metadata)
        _write_ctc(model, exact[1], metadata)
        _write_decoder(model, exact[2], metadata)
        comparison = compare(trained, chunking, exact)
        comparison.raise_if_different(directory, "float32")
        if precision == "int8":
            quantised = [parts[name, ".quant.onnx"] for name in GRAPHS]
            for source, target in zip(exact, quantised):
                quantise_dynamic(source, target)
            comparison = compare(trained, chunking, quantised)
            comparison.raise_if_different(directory, precision)
    write_text(directory / UNITS, unit_table(trained.tokenizer))
    frontend, weights = trained.config.model.frontend, trained.config.model.rescoring
    reverse = weights.reverse_weight if model.is_bidirectional_decoder() else 0.0
    command = (
        f"decoder_main --onnx_dir {directory} --unit_path {directory / UNITS} --chunk_size {metadata['chunk_size']} "
        f"--num_left_chunks {metadata['left_chunks']} --num_bins {frontend.num_mel_bins} --sample_rate {frontend.sample_rate} "
        f"--ctc_weight {weights.ctc_weight:g} --reverse_weight {reverse:g} --wav_path AUDIO.wav"
    )
    remarks = [*mel_remarks(trained, "WeNet's runtime", 0.0), *chunking_remarks(trained, chunking)]
    return ForeignExport((*files.values(), directory / UNITS), metadata, comparison, command, tuple(remarks))


# --- what the other runtimes need to know


def wenet_model(trained: TrainedModel) -> WenetModel:
    """A fused copy whose biases are looked up: one graph serves chunks and caches of any size."""
    model = fused_model(trained)
    if model.encoder.position_bias is not None:
        model.encoder.position_bias = model.encoder.position_bias.bias
    return WenetModel(model).eval()


def describe(model: WenetModel, trained: TrainedModel, chunking: Chunking) -> dict[str, str]:
    """Metadata of a graph. Runtimes read numbers with atoi: true is 1, and what they look for must be there."""
    caches, is_full = model.caches, chunking.size >= FULL_CONTEXT.size
    chunk, left = (-1, -1) if is_full else (chunking.size, max(chunking.left, -1))
    numbers = {
        "batch": 1, "chunk_size": chunk, "left_chunks": left,
        "output_size": caches.dim, "num_blocks": caches.rows, "cnn_module_kernel": caches.width + 1, "head": caches.heads,
        "feature_size": trained.config.model.frontend.num_mel_bins, "vocab_size": model.units,
        "decoding_window": (chunk - 1) * model.subsampling_rate() + model.right_context() + 1,
        "subsampling_rate": model.subsampling_rate(), "subsampling_factor": model.subsampling_rate(),
        "right_context": model.right_context(), "sos_symbol": model.sos_symbol(), "eos_symbol": model.eos_symbol(),
        "is_bidirectional_decoder": int(model.is_bidirectional_decoder()),
    }
    words = {
        "encoder": "fusionformer", "decoder": "bitransformer" if model.is_bidirectional_decoder() else "transformer",
        "reverse_weight": f"{trained.config.model.rescoring.reverse_weight:g}",
    }
    return {key: str(number) for key, number in numbers.items()} | words


def unit_table(tokenizer: Tokenizer) -> str:
    """units.txt for runtimes that join units without spaces and show U+2581 as one: words begin with it."""
    tokens = tokenizer.vocabulary.tokens
    if tokenizer.join == "words":
        tokens = [*tokens[: len(RESERVED)], *(WORD_START + token for token in tokens[len(RESERVED) :])]
    return format_vocabulary(tokens)


def check_front_end(trained: TrainedModel, path: Path) -> None:
    """Raises ValueError if the model wants features that the other runtimes cannot compute."""
    frontend = trained.config.model.frontend
    if (frontend.window_ms, frontend.hop_ms) != (25.0, 10.0):
        raise ValueError(
            f"{path} is not written: WeNet's and sherpa-onnx's runtimes compute features over 25 ms every 10 ms, "
            f"{trained.path} was trained with window_ms: {frontend.window_ms:g} and hop_ms: {frontend.hop_ms:g}"
        )


def mel_remarks(trained: TrainedModel, runtime: str, high_freq: float) -> list[str]:
    """What to say if a runtime's mel filters lie elsewhere than the model's."""
    frontend = trained.config.model.frontend
    if (frontend.low_freq, max(frontend.high_freq, -frontend.sample_rate)) == (20.0, high_freq):
        return []
    return [
        f"{runtime} computes mel filters from 20 Hz with high_freq {high_freq:g}, the model was trained with low_freq "
        f"{frontend.low_freq:g} and high_freq {frontend.high_freq:g} (0 and less count from half the sample rate)"
    ]


def chunking_remarks(trained: TrainedModel, chunking: Chunking) -> list[str]:
    """What to say if training never drew this chunking."""
    known = trained.config.training.chunking.trained()
    if chunking in known or chunking.size >= FULL_CONTEXT.size:
        return []
    label = chunking_label(chunking) if chunking.left >= 0 else f"{chunking.size} frames with all that was heard"
    return [f"the model was not trained for the chunking {label}; it knows {', '.join(map(chunking_label, known))}"]


# --- graphs

ENCODER_NAMES = ("chunk", "offset", "required_cache_size", "att_cache", "cnn_cache", "att_mask")
ENCODER_OUTPUTS = ("output", "r_att_cache", "r_cnn_cache")


class MaskedEncoder(nn.Module):
    """The encoder with a cache of fixed length that starts full of zeros.

    offset counts those zeros, so a frame's position is offset - required_cache_size. What lies before the stream's start is
    hidden by its position and by the runtime's mask, which may be longer than there are keys.
    """

    def __init__(self, model: WenetModel):
        super().__init__()
        self.model = model

    def forward(
        self, chunk: Tensor, offset: Tensor, required_cache_size: Tensor, att_cache: Tensor, cnn_cache: Tensor, att_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        start = (offset - required_cache_size).reshape(1)
        key_S = start + torch.arange(-att_cache.size(2), self.model.encoder_frames(chunk))
        visible_S = (key_S >= 0) & att_mask[0, 0, : key_S.size(0)]
        return self.model.advance(chunk, key_S, visible_S, att_cache, cnn_cache)


class GrowingEncoder(nn.Module):
    """The encoder with a cache that starts empty; required_cache_size says what is kept of it, negative: everything."""

    def __init__(self, model: WenetModel):
        super().__init__()
        self.model = model

    def forward(
        self, chunk: Tensor, offset: Tensor, required_cache_size: Tensor, att_cache: Tensor, cnn_cache: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # As many keys come back as go in: hidden ones in front make room for the new.
        cached, frames = att_cache.size(2), self.model.encoder_frames(chunk)
        att_cache = torch.cat([self.model.caches.empty_attention(frames, chunk), att_cache], dim=2)
        key_S = torch.arange(-cached - frames, frames)
        visible_S = (key_S >= -cached) & (key_S + offset >= 0)
        out, att_cache, cnn_cache = self.model.advance(chunk, key_S + offset, visible_S, att_cache, cnn_cache)
        dropped = (cached + frames - required_cache_size).clamp(min=0) * (required_cache_size >= 0)
        return out, att_cache[:, :, dropped:], cnn_cache


class Decoders(nn.Module):
    """Both attention decoders. The right-to-left one always runs: how much it counts is the runtime's choice."""

    def __init__(self, model: WenetModel):
        super().__init__()
        self.model = model

    def forward(self, hyps: Tensor, hyps_lens: Tensor, encoder_out: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.forward_attention_decoder(hyps, hyps_lens, encoder_out, 1.0)


def masked_or_growing(model: WenetModel, chunking: Chunking) -> nn.Module:
    """WeNet's runtime passes a mask only if the left context is limited and not zero."""
    return MaskedEncoder(model) if chunking.left > 0 else GrowingEncoder(model)


def write_encoder(
    graph: nn.Module, names: Sequence[str], path: Path, metadata: dict[str, str],
    outputs: Sequence[str] = ENCODER_OUTPUTS, number_shape: tuple[int, ...] = (),
) -> None:
    """Writes an encoder whose inputs are `names`, in the order of ENCODER_NAMES.

    Args:
        graph: has `.model`, a WenetModel.
        number_shape: of offset and required_cache_size.
    """
    model: WenetModel = graph.model
    frames, cached, mel_bins = 14, 7, int(metadata["feature_size"])  # not whole encoder frames, so nothing is taken for exact
    chunk = torch.zeros(1, frames, mel_bins)
    examples = (
        chunk, torch.full(number_shape, cached), torch.full(number_shape, cached),
        model.caches.empty_attention(cached, chunk), model.caches.empty_convolution(chunk),
        torch.ones(1, 1, cached + 6, dtype=torch.bool),
    )
    inputs = dict(zip(names, examples[: 5 if isinstance(graph, GrowingEncoder) else 6]))
    axes = {names[0]: {1: "T"}, names[3]: {2: "C"}, outputs[0]: {1: "M"}, outputs[1]: {2: "next_C"}}
    if len(inputs) == 6:
        axes[names[5]] = {2: "mask"}
    write_onnx(graph, inputs, outputs, axes, path, metadata)


def _write_ctc(model: WenetModel, path: Path, metadata: dict[str, str]) -> None:
    axes = {"hidden": {1: "M"}, "probs": {1: "M"}}
    write_onnx(model.model.ctc, {"hidden": torch.zeros(1, 5, model.caches.dim)}, ["probs"], axes, path, metadata)


def _write_decoder(model: WenetModel, path: Path, metadata: dict[str, str]) -> None:
    inputs = {
        "hyps": torch.full([4, 7], SOS_EOS), "hyps_lens": torch.full([4], 7), "encoder_out": torch.zeros(1, 5, model.caches.dim),
    }
    scores = {0: "N", 1: "U"}
    axes = {"hyps": scores, "hyps_lens": {0: "N"}, "encoder_out": {1: "M"}, "score": scores, "r_score": scores}
    write_onnx(Decoders(model), inputs, ["score", "r_score"], axes, path, metadata)


# --- verification


def compare(trained: TrainedModel, chunking: Chunking, graphs: Sequence[Path]) -> Comparison:
    """Drives encoder, ctc and decoder as WeNet's runtime does, over audio whose last chunk is short."""
    encoder, ctc, decoder = (session(path) for path in graphs)
    features = verification_features(trained)
    expected = reference(trained, features, chunking)
    output = run_stream(encoder, features)
    log_probs = ctc.run(None, {"hidden": output})[0]
    hypotheses = [(), (3,), (3, 4, 3)] if log_probs.shape[2] > 4 else [()]
    decoder_scores = run_decoder(decoder, hypotheses, output)
    decoder_expected = acoustic_model(trained).rescore([expected.frames], hypotheses)
    found = compare_frames(log_probs, expected.log_probs)
    differences = (
        found.largest_difference, relative_difference(output, expected.frames), relative_difference(decoder_scores, decoder_expected)
    )
    return Comparison(max(differences), found.frames, found.different_tokens)


def verification_features(trained: TrainedModel) -> np.ndarray:
    """Features (1, T, F) of generated audio as the runtimes compute them; T is no multiple of 4."""
    fbank, frontend = trained.model.fbank, trained.config.model.frontend
    audio = torch.from_numpy(generated_audio(frontend.sample_rate, np.random.default_rng(0)))
    frames = audio.numel() // fbank.hop_samples // 4 * 4 - 2
    with torch.no_grad():
        return fbank(audio[None, : frames * fbank.hop_samples], fbank.init_state(1)).features_BTF.numpy()


@dataclass(frozen=True)
class Reference:
    frames: np.ndarray  # (1, M, D)
    log_probs: np.ndarray  # (1, M, V)


def reference(trained: TrainedModel, features: np.ndarray, chunking: Chunking) -> Reference:
    """The model in memory over all features at once; the last encoder frame is filled up with digital silence."""
    model = trained.model
    silence = float(np.log(model.fbank.energy_floor))
    padded = np.pad(features, ((0, 0), (0, -features.shape[1] % 4), (0, 0)), constant_values=silence)
    context = chunking if chunking.left >= 0 else Chunking(chunking.size, ALL_LEFT)
    with torch.no_grad():
        normalised = model.cmvn(torch.from_numpy(padded))
        lengths = torch.tensor([normalised.size(1) // 4])
        frames = model.encoder(normalised, lengths, context, model.encoder.init_state(1, 0)).frames_BTD
        return Reference(frames.numpy(), model.ctc(frames).numpy())


def run_stream(encoder: Any, features: np.ndarray) -> np.ndarray:
    """First outputs of an encoder's session, chunk by chunk, joined. All it needs to know it reads from the metadata."""
    known = encoder.get_modelmeta().custom_metadata_map
    keys = ("chunk_size", "left_chunks", "num_blocks", "head", "output_size", "cnn_module_kernel", "subsampling_rate")
    chunk, left, rows, heads, dim, kernel, factor = (int(known[key]) for key in keys)
    required, cached = chunk * left, max(chunk * left, 0) if left > 0 else 0
    att_cache = np.zeros((rows, heads, cached, dim // heads * 2), np.float32)
    cnn_cache = np.zeros((rows, 1, dim, kernel - 1), np.float32)
    offset, outputs, inputs = cached, [], encoder.get_inputs()
    window = chunk * factor if chunk > 0 else features.shape[1]
    for start in range(0, features.shape[1], window):
        mask = np.arange(cached + chunk) >= 2 * cached - offset
        numbers = [np.full(node.shape, value, np.int64) for node, value in zip(inputs[1:3], (offset, required))]
        values = [features[:, start : start + window], *numbers, att_cache, cnn_cache, mask[None, None]]
        output, att_cache, cnn_cache = encoder.run(None, {node.name: value for node, value in zip(inputs, values)})
        outputs.append(output)
        offset += output.shape[1]
    return np.concatenate(outputs, axis=1)


def run_decoder(decoder: Any, hypotheses: Sequence[Sequence[int]], encoder_out: np.ndarray) -> np.ndarray:
    """(N, 2) log-probabilities of whole hypotheses, read off the outputs as WeNet's runtime does."""
    lengths = np.array([len(ids) + 1 for ids in hypotheses])
    hyps = np.zeros((len(hypotheses), lengths.max()), np.int64)
    hyps[:, 0] = SOS_EOS
    for row, ids in enumerate(hypotheses):
        hyps[row, 1 : len(ids) + 1] = ids
    outputs = decoder.run(None, {"hyps": hyps, "hyps_lens": lengths, "encoder_out": encoder_out})
    scores = np.zeros((len(hypotheses), 2))
    for side, direction in enumerate((1, -1)):
        for row, ids in enumerate(hypotheses):
            targets = [*ids[::direction], SOS_EOS]
            scores[row, side] = outputs[side][row, np.arange(len(targets)), targets].sum()
    return scores


def compare_frames(log_probs: np.ndarray, expected: np.ndarray) -> Comparison:
    """Log-probabilities (1, M, V) of a graph beside the model's."""
    difference = relative_difference(log_probs, expected)
    if log_probs.shape != expected.shape:
        return Comparison(difference, expected.shape[1], expected.shape[1])
    first_two = np.sort(expected, axis=2)[:, :, -2:]
    clear = first_two[:, :, 1] - first_two[:, :, 0] > 10 * TOLERANCE
    different = (log_probs.argmax(axis=2) != expected.argmax(axis=2)) & clear
    return Comparison(difference, expected.shape[1], int(different.sum()))
