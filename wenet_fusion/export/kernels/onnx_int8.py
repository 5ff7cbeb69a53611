"""int8 for onnxruntime with constant scales, and attention as one operator: a model whose graph is for our runtime alone.

No layer's result depends on the block or the batch, as in `static_int8`, which finds the scales. Knows no file.

Shapes: B rows, T queries, S keys, D width, H heads, K inputs, N outputs.
"""

from typing import Any, Optional

import torch
from torch import Tensor, nn

from wenet_fusion.export.kernels.static_int8 import InputRange, quantised_weight
from wenet_fusion.model.layers.attention import AttentionOutput, CachedAttention
from wenet_fusion.model.layers.convolution import CausalConvolution, ConvolutionOutput
from wenet_fusion.model.layers.feed_forward import FeedForward

DOMAIN = "com.microsoft"  # onnxruntime's own operators


def _constants(graph: Any, expected: InputRange) -> tuple[Any, Any]:
    """Scale and zero point of an activation."""
    scale = graph.op("Constant", value_t=torch.tensor(expected.scale))
    return scale, graph.op("Constant", value_t=torch.tensor(expected.zero_point, dtype=torch.uint8))


def _zero(graph: Any) -> Any:
    """Zero point of a weight: its scales are symmetric."""
    return graph.op("Constant", value_t=torch.tensor(0, dtype=torch.int8))


class _Quantise(torch.autograd.Function):
    """float32 -> uint8 in the graph. Here nothing is rounded: an example shows the exporter sizes, not values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, expected: InputRange) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def symbolic(graph: Any, x: Any, expected: InputRange) -> Any:
        quantised = graph.op("QuantizeLinear", x, *_constants(graph, expected))
        return quantised.setType(x.type().with_dtype(torch.uint8))


class _Product(torch.autograd.Function):
    """A product that reads int8 and writes float32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_KN: Tensor, scale_N: Tensor, bias_N: Tensor, expected: InputRange
    ) -> Tensor:
        return x @ (weight_KN * scale_N) + bias_N

    @staticmethod
    def symbolic(graph: Any, x: Any, weight_KN: Any, scale_N: Any, bias_N: Any, expected: InputRange) -> Any:
        scale, zero = _constants(graph, expected)
        inputs = (x, weight_KN, scale, scale_N, zero, _zero(graph), bias_N)
        product = graph.op(f"{DOMAIN}::MatMulIntegerToFloat", *inputs)
        return product.setType(x.type().with_dtype(torch.float32))


class StaticLinear(nn.Module):
    """A linear layer whose graph computes in int8. (..., K) -> (..., N)."""

    def __init__(self, linear: nn.Linear, expected: InputRange):
        super().__init__()
        self.expected = expected
        weight = quantised_weight(linear.weight)
        self.register_buffer("weight_KN", weight.int_repr().t().contiguous())
        self.register_buffer("scale_N", weight.q_per_channel_scales().float())
        self.register_buffer("bias_N", linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.of_quantised(_Quantise.apply(x, self.expected))

    def of_quantised(self, x: Tensor) -> Tensor:
        """For what is quantised to the layer's input range already."""
        return _Product.apply(x, self.weight_KN, self.scale_N, self.bias_N, self.expected)


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution and ReLU from uint8 to uint8, channels last."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BTD: Tensor,
        taps_D1W: Tensor,
        scale_D: Tensor,
        bias_D: Tensor,
        expected: InputRange,
        hidden: InputRange,
    ) -> Tensor:
        taps = taps_D1W * scale_D.view(-1, 1, 1)
        h = nn.functional.conv1d(torch.relu(x_BTD).transpose(1, 2), taps, groups=taps.size(0)).transpose(1, 2)
        return torch.relu(h + bias_D * expected.scale * scale_D)

    @staticmethod
    def symbolic(
        graph: Any, x_BTD: Any, taps_D1W: Any, scale_D: Any, bias_D: Any, expected: InputRange, hidden: InputRange
    ) -> Any:
        dim, _, kernel = taps_D1W.type().sizes()  # a weight has a type
        inputs = (*_constants(graph, expected), taps_D1W, scale_D, _zero(graph), *_constants(graph, hidden), bias_D)
        h = graph.op(f"{DOMAIN}::QLinearConv", x_BTD, *inputs, channels_last_i=1, group_i=dim, kernel_shape_i=[kernel])
        return h.setType(x_BTD.type())


class StaticConvolution(nn.Module):
    """A fused `CausalConvolution` with ReLUs. Its state holds what the first ReLU will cut: zeros stay zeros."""

    def __init__(self, source: CausalConvolution, inside: InputRange, convolved: InputRange, hidden: InputRange):
        super().__init__()
        self.pointwise_in = StaticLinear(source.pointwise_in, inside)
        self.pointwise_out = StaticLinear(source.pointwise_out, hidden)
        conv, self.convolved = source.depthwise.conv, convolved
        taps = quantised_weight(conv.weight)
        scale_D = taps.q_per_channel_scales()
        self.register_buffer("taps_D1W", taps.int_repr())
        self.register_buffer("scale_D", scale_D.float())
        self.register_buffer(
            "bias_D", (conv.bias.detach().double() / (convolved.scale * scale_D)).round().to(torch.int32)
        )

    def forward(self, x_BTD: Tensor, valid_N: Optional[Tensor], frames: int, state_BWD: Tensor) -> ConvolutionOutput:
        assert valid_N is None, "inference packs nothing"
        context_BTD = torch.cat([state_BWD, self.pointwise_in(x_BTD)], dim=1)
        quantised = _Quantise.apply(context_BTD, self.convolved)  # which cuts off what the first ReLU would
        hidden_BTD = _Depthwise.apply(
            quantised, self.taps_D1W, self.scale_D, self.bias_D, self.convolved, self.pointwise_out.expected
        )
        return ConvolutionOutput(self.pointwise_out.of_quantised(hidden_BTD), context_BTD[:, frames:])


class _MultiHead(torch.autograd.Function):
    """Scaled dot-product attention of all heads; the scale is in the queries already."""

    @staticmethod
    def forward(
        ctx: Any, query_BTD: Tensor, key_BSD: Tensor, value_BSD: Tensor, bias_BHTS: Tensor, heads: int
    ) -> Tensor:
        split = [part.unflatten(2, [heads, -1]).transpose(1, 2) for part in (query_BTD, key_BSD, value_BSD)]
        context = nn.functional.scaled_dot_product_attention(*split, attn_mask=bias_BHTS, scale=1.0)
        return context.transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(graph: Any, query_BTD: Any, key_BSD: Any, value_BSD: Any, bias_BHTS: Any, heads: int) -> Any:
        absent = graph.op("prim::Constant").setType(torch._C.NoneType.get())  # neither biases nor a padding mask
        inputs = (query_BTD, key_BSD, value_BSD, absent, absent, bias_BHTS)
        out = graph.op(f"{DOMAIN}::MultiHeadAttention", *inputs, num_heads_i=heads, scale_f=1.0)
        return out.setType(query_BTD.type())


class OneOperatorAttention(nn.Module):
    """A fused `CachedAttention` without position products, its heads in one operator."""

    def __init__(self, source: CachedAttention):
        super().__init__()
        self.dim, self.heads, self.qkv, self.out = source.dim, source.heads, source.qkv, source.out

    def forward(
        self,
        x_BTD: Tensor,
        valid_N: Optional[Tensor],
        frames: int,
        bias_BHTS: Tensor,
        position_BSD: Optional[Tensor],
        state: Tensor,
    ) -> AttentionOutput:
        assert valid_N is None and position_BSD is None, "inference packs nothing, and a FusionFormer has a bias"
        query_BTD, new = self.qkv(x_BTD).split([self.dim, 2 * self.dim], dim=2)
        keys_values = torch.cat([state, new], dim=1)
        key_BSD, value_BSD = keys_values.split(self.dim, dim=2)
        context_BTD = _MultiHead.apply(query_BTD, key_BSD, value_BSD, bias_BHTS, self.heads)
        return AttentionOutput(self.out(context_BTD), keys_values[:, frames:])


def make_static(model: nn.Module, ranges: dict[str, InputRange]) -> None:
    """Replaces the linear layers of a fused model, and what lies between them, in place.

    A ReLU is spared where the scale of what it feeds has zero at its lower end: quantising cuts off the same.
    """

    def range_of(*path: str) -> InputRange:
        return ranges[".".join(filter(None, path))]

    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            path = (name, child_name)
            if isinstance(child, FeedForward) and range_of(*path, "reduce").zero_point == 0:
                child.activation = nn.Identity()
            elif isinstance(child, CausalConvolution):
                parts = [range_of(*path, part) for part in ("pointwise_in", "depthwise.conv", "pointwise_out")]
                setattr(module, child_name, StaticConvolution(child, *parts))
            elif isinstance(child, CachedAttention):
                for part in ("qkv", "out"):
                    setattr(child, part, StaticLinear(getattr(child, part), range_of(*path, part)))
                setattr(module, child_name, OneOperatorAttention(child))
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, child_name, StaticLinear(child, range_of(name, child_name)))
