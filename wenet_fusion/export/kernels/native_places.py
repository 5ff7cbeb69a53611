"""Find the places of an int8 model's weights in its step.onnx, where wenet-fusion-kernels reads them."""

import zlib
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor, nn
from wenet_fusion_runtime.model.native_table import NativeTable, Placed

from wenet_fusion.export.kernels.onnx_int8 import OneOperatorAttention, OnnxStaticLinear, StaticConvolution
from wenet_fusion.export.kernels.static_int8 import InputRange
from wenet_fusion.model.encoder import Encoder
from wenet_fusion.model.layers.feed_forward import FeedForward
from wenet_fusion.model.layers.residual import LayerChain, Residual
from wenet_fusion.model.streaming import StreamingModel

MOST_TAPS = 1 << 10  # of the depthwise convolution, as in wenet_fusion_kernels
MOST_BIAS = 1 << 30  # as in wenet_fusion_kernels: the sums of the depthwise convolution must fit into 32 bits
BRANCHES = (FeedForward, OneOperatorAttention, StaticConvolution, FeedForward)


def native_table(model: StreamingModel, encoder: Encoder, step: bytes) -> Optional[NativeTable]:
    """Return sizes, places of tensors and input ranges (native.json) for the native step of wenet-fusion-kernels.

    None: the step does not support the layers, the kernel of the depthwise convolution, or the size of its biases.

    Args:
        model: the model after `make_onnx_static`.
        encoder: its encoder.
        step: the content of its step.onnx.

    Raises:
        ValueError: the graph does not hold a tensor of the model.
    """
    if not all(_is_known(layer) for layer in encoder.layers):
        return None
    parts = list(_parts(model, encoder))
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if any(tensor.dtype == torch.int32 and tensor.abs().max() > MOST_BIAS for tensor in tensors):
        return None
    sizes = _sizes(model, encoder)
    if sizes["kernel"] > MOST_TAPS:
        return None
    ranges = tuple((part.scale, part.zero_point) for part in parts if isinstance(part, InputRange))
    return NativeTable(sizes, tuple(_places(tensors, step)), ranges, zlib.crc32(step))


def _is_known(layer: nn.Module) -> bool:
    if not isinstance(layer, LayerChain) or len(layer) != len(BRANCHES):
        return False
    branches = [branch for branch in layer.values() if isinstance(branch, Residual)]
    return len(branches) == len(BRANCHES) and all(
        isinstance(branch.norm, nn.Identity) and isinstance(branch.op, kind) for branch, kind in zip(branches, BRANCHES)
    )


def _sizes(model: StreamingModel, encoder: Any) -> dict[str, int]:
    """Return the fields of wenet_fusion_kernels.Sizes."""
    first, _, convolution, _ = (branch.op for branch in encoder.layers[0].values())
    table = encoder.position_bias.table
    return {
        "window": model.fbank.window_samples,
        "hop": model.fbank.hop_samples,
        "bins": model.fbank.mel_FK.size(1),
        "mels": model.fbank.mel_FK.size(0),
        "channels": encoder.subsampling.conv_1.conv.out_channels,
        "dim": encoder.dim,
        "layers": len(encoder.layers),
        "heads": encoder.heads,
        "feed_forward": first.expand.weight_KN.size(1),
        "kernel": convolution.context + 1,
        "max_distance": table.size(0) // 2,
        "vocabulary": model.vocabulary_size,
        "top": model.top_tokens,
    }


def _parts(model: StreamingModel, encoder: Any) -> Iterator[Tensor | InputRange]:
    """Yield the tensors and input ranges of the model, both in the order in which the kernel library reads them."""
    yield from (model.fbank.spectrum.matrix.squeeze(1), model.fbank.mel_FK, model.cmvn.mean, model.cmvn.inverse_std)
    for norm in (encoder.subsampling.conv_1, encoder.subsampling.conv_2):
        yield from (norm.conv.weight, norm.conv.bias)
    yield from _linear(encoder.subsampling.out)
    for layer in encoder.layers:
        before, attention, convolution, after = (branch.op for branch in layer.values())
        for linear in (before.expand, before.reduce, attention.qkv, attention.out, convolution.pointwise_in):
            yield from _linear(linear)
        yield convolution.convolved
        yield from _linear(convolution.pointwise_out)
        yield from (convolution.taps_D1W, convolution.scale_D, convolution.bias_D)
        yield from _linear(after.expand)
        yield from _linear(after.reduce)
    yield encoder.position_bias.table
    yield from _linear(model.ctc.linear)


def _linear(layer: Any) -> Iterator[Tensor | InputRange]:
    assert isinstance(layer, OnnxStaticLinear), "make_onnx_static has replaced all linear layers"
    yield from (layer.weight_KN, layer.scale_N, layer.bias_N, layer.expected)


def _places(tensors: list[Tensor], step: bytes) -> Iterator[Placed]:
    """Yield the place of each tensor. The exporter renames and shares tensors, so they are found by their contents."""
    after = 0  # most tensors are in order, so the search begins after the last one found
    for tensor in tensors:
        array = np.ascontiguousarray(tensor.detach().numpy())
        content = array.tobytes()
        offset = step.find(content, after)
        offset = step.find(content) if offset < 0 else offset
        if offset < 0:
            raise ValueError(f"step.onnx does not hold a tensor {array.dtype} {array.shape} of the model")
        after = offset + len(content)
        yield Placed(str(array.dtype), array.shape, offset)
