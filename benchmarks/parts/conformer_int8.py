"""A LayerNorm Conformer for onnxruntime in int8 with constant scales: the fastest Conformer to compare with.

Matrix products are quantised as in our own export, and attention is one operator. LayerNorm, Swish, GLU and the
depthwise convolution stay in float. The two convolutions of the subsampling can be quantised too.

Shapes: B rows, T queries, S keys, C cached frames, D width, H heads, K = D / H.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import HistogramObserver

from wenet_fusion.export.kernels.onnx_int8 import OnnxStaticLinear, multi_head
from wenet_fusion.export.kernels.static_int8 import InputRange, input_ranges, quantised_weight
from wenet_fusion.model.layers.attention import CachedAttention
from wenet_fusion.model.layers.layer_protocol import StepContext, attention_bias


class PositionedAttention(nn.Module):
    """A `CachedAttention` with relative positions, computed for all heads in one operator.

    Args:
        source: the attention.
    """

    def __init__(self, source: CachedAttention):
        super().__init__()
        assert source.rel_pos is not None
        self.dim, self.heads, self.layer = source.dim, source.heads, source.layer
        self.qkv, self.out, self.rel_pos = source.qkv, source.out, source.rel_pos

    def init_state(self, batch: int, cached: int, zero: Tensor) -> list[Tensor]:
        """Return the initial state: zeros (B, C, 2D)."""
        return [zero.expand(batch, cached, 2 * self.dim)]

    def forward(self, x_BTD: Tensor, state: list[Tensor], context: StepContext) -> tuple[Tensor, list[Tensor]]:
        """Return the attention's output (B, T, D) and the next state."""
        assert context.valid_N is None and context.position_BSD is not None, "inference does not pack rows"
        query_BTD, new = self.qkv(x_BTD).split([self.dim, 2 * self.dim], dim=2)
        keys_values = torch.cat([state[0], new], dim=1)
        key_BSD, value_BSD = keys_values.split(self.dim, dim=2)
        query_BHTK = query_BTD.unflatten(2, [self.heads, -1]).transpose(1, 2)
        scored = self.rel_pos(query_BHTK, context.position_BSD)
        query_BTD = query_BTD + self.rel_pos.key_bias.flatten()
        bias_BHTS = attention_bias(context, self.layer) + scored.bias_BHTS
        attended_BTD = multi_head(query_BTD, key_BSD, value_BSD, bias_BHTS, self.heads)
        return self.out(attended_BTD), [keys_values[:, context.frames :]]


class _Convolution(torch.autograd.Function):
    """A 2-D convolution with ReLU, from float32 to float32, which onnxruntime computes in uint8 and int8."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor,
        inside: InputRange,
        outside: InputRange,
        stride: int,
    ) -> Tensor:
        taps = weight * scale.view(-1, 1, 1, 1)
        return torch.relu(nn.functional.conv2d(x, taps, bias * inside.scale * scale, stride))

    @staticmethod
    def symbolic(
        graph: Any, x: Any, weight: Any, scale: Any, bias: Any, inside: InputRange, outside: InputRange, stride: int
    ) -> Any:
        def constants(expected: InputRange) -> tuple[Any, Any]:
            zero = torch.tensor(expected.zero_point, dtype=torch.uint8)
            return graph.op("Constant", value_t=torch.tensor(expected.scale)), graph.op("Constant", value_t=zero)

        zeros = graph.op("Constant", value_t=torch.zeros(weight.type().sizes()[0], dtype=torch.int8))
        before, after = constants(inside), constants(outside)
        quantised = graph.op("QuantizeLinear", x, *before)
        inputs = (quantised, *before, weight, scale, zeros, *after, bias)
        found = graph.op("QLinearConv", *inputs, strides_i=[stride, stride], kernel_shape_i=weight.type().sizes()[2:])
        return graph.op("DequantizeLinear", found, *after).setType(x.type().with_sizes([None] * 4))


class StaticConv2d(nn.Module):
    """A 2-D convolution with ReLU in int8.

    Args:
        conv: the convolution in float32.
        inside, outside: value ranges of the convolution's input, and of the output of the ReLU.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, inside: InputRange, outside: InputRange):
        super().__init__()
        self.inside, self.outside, self.stride = inside, outside, conv.stride[0]
        weight = quantised_weight(conv.weight)
        scale = weight.q_per_channel_scales()
        assert conv.bias is not None
        self.register_buffer("weight", weight.int_repr())
        self.register_buffer("scale", scale.float())
        bias = conv.bias.detach().double() / (inside.scale * scale)
        self.register_buffer("bias", bias.round().to(torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of convolution and ReLU."""
        args = (x, self.weight, self.scale, self.bias, self.inside, self.outside, self.stride)
        found: Tensor = _Convolution.apply(*args)
        return found


def make_conformer_static(model: nn.Module, run: Callable[[], None], convolutions: bool = False) -> None:
    """Quantise the matrix products of a Conformer, in place.

    Args:
        model: the model; norms that can be folded are folded.
        run: runs the model on calibration data, to find the ranges of its activations.
        convolutions: quantise the convolutions of the subsampling too.
    """
    observers = {name: HistogramObserver() for name, each in model.named_modules() if isinstance(each, nn.Conv2d)}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, observer=observer: observer(inputs[0].detach())
        )
        for name, observer in observers.items()
    ]
    ranges = input_ranges(model, run)
    for handle in handles:
        handle.remove()
    for name, observer in observers.items():
        scale, zero_point = observer.calculate_qparams()
        ranges[name] = InputRange(float(scale), int(zero_point))
    if convolutions:
        # A ReLU follows each convolution: the range of its output is the range of the next layer's input.
        first, second = observers
        out = next(name for name in ranges if name.endswith("subsampling.out"))
        for name, outside in ((first, second), (second, out)):
            parent, _, child = name.rpartition(".")
            conv = model.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            setattr(model.get_submodule(parent), child, StaticConv2d(conv, ranges[name], ranges[outside]))
    for name, module in list(model.named_modules()):
        for child, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(module, child, OnnxStaticLinear(layer, ranges[f"{name}.{child}".lstrip(".")]))
    for module in list(model.modules()):
        for child, layer in list(module.named_children()):
            if isinstance(layer, CachedAttention):
                setattr(module, child, PositionedAttention(layer))
