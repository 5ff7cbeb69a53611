"""The ONNX graphs that WeNet's and sherpa-onnx's runtimes run, and their metadata.

Both runtimes pass the same inputs in the same order: features, offset, required_cache_size, two caches and, if the
graph has one, a mask. `WenetCaches` describes how the caches hold our state.

Shapes: T feature frames, M encoder frames of a call, C cached frames, S = C + M keys, N hypotheses, U tokens with sos,
V vocabulary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from wenet_fusion.export.targets.onnx_graph import write_onnx
from wenet_fusion.export.wenet_methods import WenetModel
from wenet_fusion.model.asr_model import SOS_EOS
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.trained_model import TrainedModel, folded, look_up_biases

EXAMPLE_FRAMES, EXAMPLE_CACHE = 14, 7  # unequal T and C, see `write_onnx`; 14 feature frames are 3.5 encoder frames


def wenet_model(trained: TrainedModel) -> WenetModel:
    """Return a fused copy that looks up position biases, so that one graph serves chunks and caches of any size."""
    model = WenetModel(folded(trained)).eval()
    look_up_biases(model.encoder)
    return model


class MaskedEncoder(nn.Module):
    """The encoder with a cache of fixed length that starts full of zeros.

    `offset` is the number of encoder frames before the chunk, including the zeros of the first cache. C equals
    required_cache_size in every call, so the chunk starts at the position offset - required_cache_size. `att_mask`
    (1, 1, S or more) is the runtime's mask: true for keys that the chunk may attend to. Keys at negative positions,
    which come before the start of the stream, are masked in any case.

    Args:
        model: see `wenet_model`.

    >>> import inspect
    >>> [name for name in inspect.signature(MaskedEncoder.forward).parameters][-1]
    'att_mask'
    """

    def __init__(self, model: WenetModel):
        super().__init__()
        self.model = model

    def forward(
        self,
        chunk: Tensor,
        offset: Tensor,
        required_cache_size: Tensor,
        att_cache: Tensor,
        cnn_cache: Tensor,
        att_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one chunk; the class explains `offset` and `att_mask`. The next caches are as long as the given ones."""
        start = (offset - required_cache_size).reshape(1)
        key_S = start + torch.arange(-att_cache.size(2), self.model.encoder_frames(chunk))
        visible_S = (key_S >= 0) & att_mask[0, 0, : key_S.size(0)]
        return self.model.step_encoder(chunk, key_S, visible_S, att_cache, cnn_cache)


class GrowingEncoder(nn.Module):
    """The encoder with a cache that starts empty and keeps required_cache_size frames; negative: all of them.

    Args:
        model: see `wenet_model`.

    >>> import inspect
    >>> [name for name in inspect.signature(GrowingEncoder.forward).parameters][-1]
    'cnn_cache'
    """

    def __init__(self, model: WenetModel):
        super().__init__()
        self.model = model

    def forward(
        self, chunk: Tensor, offset: Tensor, required_cache_size: Tensor, att_cache: Tensor, cnn_cache: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one chunk; see `WenetModel.forward_encoder_chunk`.

        In the first call, att_cache has C = 0 frames, and cnn_cache holds zeros.
        """
        # The encoder returns a cache of the length that it gets. To let the cache grow, prepend masked keys.
        cached, frames = att_cache.size(2), self.model.encoder_frames(chunk)
        att_cache = torch.cat([self.model.caches.empty_attention(frames, chunk), att_cache], dim=2)
        key_S = torch.arange(-cached - frames, frames)
        visible_S = (key_S >= -cached) & (key_S + offset >= 0)
        out, att_cache, cnn_cache = self.model.step_encoder(chunk, key_S + offset, visible_S, att_cache, cnn_cache)
        dropped = (cached + frames - required_cache_size).clamp(min=0) * (required_cache_size >= 0)
        return out, att_cache[:, :, dropped:], cnn_cache


class EncoderWithCtc(nn.Module):
    """An encoder with the inputs of `MaskedEncoder` that returns CTC log-probabilities instead of encoder frames.

    Args:
        encoder: the encoder.

    >>> issubclass(EncoderWithCtc, nn.Module)
    True
    """

    def __init__(self, encoder: MaskedEncoder):
        super().__init__()
        self.encoder, self.model = encoder, encoder.model

    def forward(
        self,
        chunk: Tensor,
        offset: Tensor,
        required_cache_size: Tensor,
        att_cache: Tensor,
        cnn_cache: Tensor,
        att_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one chunk with the inputs of `MaskedEncoder`. The first output is log-probabilities (1, M, V)."""
        out, att_cache, cnn_cache = self.encoder(chunk, offset, required_cache_size, att_cache, cnn_cache, att_mask)
        return self.model.ctc_activation(out), att_cache, cnn_cache


class Decoders(nn.Module):
    """Both attention decoders. The right-to-left one always runs; the runtime applies its weight.

    Args:
        model: see `wenet_model`.

    >>> import inspect
    >>> [name for name in inspect.signature(Decoders.forward).parameters][1:]
    ['hyps', 'hyps_lens', 'encoder_out']
    """

    def __init__(self, model: WenetModel):
        super().__init__()
        self.model = model

    def forward(self, hyps: Tensor, hyps_lens: Tensor, encoder_out: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities (N, U, V) of each next token, one tensor from each decoder."""
        return self.model.forward_attention_decoder(hyps, hyps_lens, encoder_out, 1.0)


def write_encoder(
    graph: MaskedEncoder | GrowingEncoder | EncoderWithCtc,
    names: Sequence[str],
    outputs: Sequence[str],
    number_shape: Sequence[int],
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write an encoder's graph.

    Args:
        graph: the encoder.
        names: names of the inputs; the sixth, if there is one, is the mask.
        outputs: names of the outputs.
        number_shape: shape of the inputs offset and required_cache_size.
        path: the file.
        metadata: see `describe`.

    Raises:
        ImportError, ValueError: see `write_onnx`.
    """
    caches = graph.model.caches
    chunk = torch.zeros(1, EXAMPLE_FRAMES, int(metadata["feature_size"]))
    number = torch.full(list(number_shape), EXAMPLE_CACHE)
    att_cache, cnn_cache = caches.empty_attention(EXAMPLE_CACHE, chunk), caches.empty_convolution(chunk)
    # The mask is longer than the keys, as it is for a short last chunk.
    mask = torch.ones(1, 1, EXAMPLE_CACHE + EXAMPLE_FRAMES, dtype=torch.bool)
    examples = (chunk, number, number, att_cache, cnn_cache, mask)
    axes = {names[0]: {1: "T"}, names[3]: {2: "C"}, outputs[0]: {1: "M"}, outputs[1]: {2: "next_C"}}
    if len(names) == len(examples):
        axes[names[5]] = {2: "mask"}
    write_onnx(graph, dict(zip(names, examples)), outputs, axes, path, metadata)


def write_ctc(model: WenetModel, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the graph of the CTC head: encoder frames to log-probabilities. Raises: see `write_onnx`."""
    axes = {"hidden": {1: "M"}, "probs": {1: "M"}}
    write_onnx(model.ctc, {"hidden": torch.zeros(1, 5, model.caches.dim)}, ["probs"], axes, path, metadata)


def write_decoder(model: WenetModel, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the graph of `Decoders`. Raises: see `write_onnx`."""
    encoder_out = torch.zeros(1, 5, model.caches.dim)
    inputs = {"hyps": torch.full([4, 7], SOS_EOS), "hyps_lens": torch.full([4], 7), "encoder_out": encoder_out}
    tokens = {0: "N", 1: "U"}
    axes = {"hyps": tokens, "hyps_lens": {0: "N"}, "encoder_out": {1: "M"}, "score": tokens, "r_score": tokens}
    write_onnx(Decoders(model), inputs, ["score", "r_score"], axes, path, metadata)


def describe(model: WenetModel, trained: TrainedModel, chunking: Chunking) -> dict[str, str]:
    """Return the metadata of a graph.

    The runtimes read numbers with atoi, so true is 1. A missing key ends their process.
    """
    caches, is_full = model.caches, chunking.size >= FULL_CONTEXT.size
    chunk, left = (-1, -1) if is_full else (chunking.size, max(chunking.left, -1))
    rate, right_context = model.subsampling_rate(), model.right_context()
    is_bidirectional = model.is_bidirectional_decoder()
    numbers = {
        "batch": 1,
        "chunk_size": chunk,
        "left_chunks": left,
        "output_size": caches.dim,
        "head": caches.heads,
        "num_blocks": caches.rows,
        "cnn_module_kernel": caches.width + 1,  # determines the size of the cnn_cache that the runtimes allocate
        "feature_size": trained.config.model.frontend.num_mel_bins,
        "sample_rate": trained.config.model.frontend.sample_rate,  # our runtime reads it; others take it as an option
        "vocab_size": len(trained.tokenizer.vocabulary),
        "decoding_window": (chunk - 1) * rate + right_context + 1,
        "subsampling_rate": rate,
        "subsampling_factor": rate,
        "right_context": right_context,
        "sos_symbol": model.sos_symbol(),
        "eos_symbol": model.eos_symbol(),
        "is_bidirectional_decoder": int(is_bidirectional),
    }
    words = {
        "encoder": "fusionformer",
        "decoder": "bitransformer" if is_bidirectional else "transformer",
        "reverse_weight": f"{trained.config.model.rescoring.reverse_weight:g}",
    }
    return {key: str(number) for key, number in numbers.items()} | words
