"""int8 for onnxruntime with constant scales, and attention as one operator.

`static_int8` finds the scales. A layer's result for a row depends on neither block nor batch, as in `static_int8`.
The graphs contain onnxruntime's own operators, so only onnxruntime runs them.

Shapes: B rows, T queries, S keys, C cached frames, W frames of a convolution's context, D width, H heads, K inputs,
N outputs.
"""

from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor, nn

from wenet_fusion.export.kernels.convolution_kernels import as_linear, bias_of
from wenet_fusion.export.kernels.static_int8 import InputRange, quantised_weight
from wenet_fusion.model.layers.attention import CachedAttention
from wenet_fusion.model.layers.convolution import CausalConvolution
from wenet_fusion.model.layers.feed_forward import FeedForward
from wenet_fusion.model.layers.layer_protocol import StepContext, attention_bias

DOMAIN = "com.microsoft"  # onnxruntime's own operators


def _typed(value: Any, like: Any, dtype: torch.dtype, channels: Optional[int] = None) -> Any:
    """Give a graph's value `dtype` and the axes of `like`: the last axis keeps its size (or gets `channels`), the other
    axes may have any size.

    A type copied from `like` would also fix the other sizes, and onnxruntime complains about them when it loads the
    graph ("Error merging shape info").
    """
    sizes = like.type().varyingSizes()
    if sizes is None:
        return value.setType(like.type().with_dtype(dtype))
    dynamic: list[Optional[int]] = [None] * len(sizes)
    dynamic[-1] = sizes[-1] if channels is None else channels
    return value.setType(like.type().with_dtype(dtype).with_sizes(dynamic))


def _constants(graph: Any, expected: InputRange) -> tuple[Any, Any]:
    """Return scale and zero point of an activation."""
    scale = graph.op("Constant", value_t=torch.tensor(expected.scale))
    return scale, graph.op("Constant", value_t=torch.tensor(expected.zero_point, dtype=torch.uint8))


def _zero(graph: Any) -> Any:
    """Return the zero point of a weight, which is 0 because the scales are symmetric."""
    return graph.op("Constant", value_t=torch.tensor(0, dtype=torch.int8))


class _Quantise(torch.autograd.Function):
    """float32 -> uint8 in the graph. In Python it changes nothing: the exporter reads only the sizes of the example."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, expected: InputRange) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def symbolic(graph: Any, x: Any, expected: InputRange) -> Any:
        return _typed(graph.op("QuantizeLinear", x, *_constants(graph, expected)), x, torch.uint8)


class _Product(torch.autograd.Function):
    """A matrix product that reads uint8 inputs and int8 weights, and writes float32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_KN: Tensor, scale_N: Tensor, bias_N: Tensor, expected: InputRange
    ) -> Tensor:
        return x @ (weight_KN * scale_N) + bias_N

    @staticmethod
    def symbolic(graph: Any, x: Any, weight_KN: Any, scale_N: Any, bias_N: Any, expected: InputRange) -> Any:
        scale, zero = _constants(graph, expected)
        inputs = (x, weight_KN, scale, scale_N, zero, _zero(graph), bias_N)
        _, outputs = weight_KN.type().sizes()  # a weight's sizes are known
        return _typed(graph.op(f"{DOMAIN}::MatMulIntegerToFloat", *inputs), x, torch.float32, outputs)


class OnnxStaticLinear(nn.Module):
    """A linear layer whose graph computes in int8: (..., K) -> (..., N).

    Args:
        linear: a layer in float32.
        expected: range of the layer's inputs.

    >>> OnnxStaticLinear(nn.Linear(8, 4), InputRange(scale=0.1, zero_point=128)).weight_KN.dtype
    torch.int8
    """

    weight_KN: Tensor
    scale_N: Tensor
    bias_N: Tensor

    def __init__(self, linear: nn.Linear, expected: InputRange):
        super().__init__()
        self.expected = expected
        weight = quantised_weight(linear.weight)
        self.register_buffer("weight_KN", weight.int_repr().t().contiguous())
        self.register_buffer("scale_N", weight.q_per_channel_scales().float())
        self.register_buffer("bias_N", bias_of(linear))

    def forward(self, x: Tensor) -> Tensor:
        """Quantise the input and multiply."""
        return self.multiply(_Quantise.apply(x, self.expected))

    def multiply(self, x: Tensor) -> Tensor:
        """Multiply an input that is already quantised to the layer's input range."""
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
        dim, _, kernel = taps_D1W.type().sizes()  # a weight's sizes are known
        inputs = (*_constants(graph, expected), taps_D1W, scale_D, _zero(graph), *_constants(graph, hidden), bias_D)
        h = graph.op(f"{DOMAIN}::QLinearConv", x_BTD, *inputs, channels_last_i=1, group_i=dim, kernel_shape_i=[kernel])
        return _typed(h, x_BTD, torch.uint8)


class StaticConvolution(nn.Module):
    """A fused `CausalConvolution` with ReLUs, in int8.

    Its state holds the values before the first ReLU instead of after it; in a fresh state, both are zeros.

    Args:
        source: the convolution, norms folded.
        inside, convolved, hidden: input ranges of pointwise_in, depthwise and pointwise_out.

    >>> from wenet_fusion.model.layers.norm import fuse_norms
    >>> source = fuse_norms(nn.Sequential(CausalConvolution(8, 4, 0.0, 1.0)).eval())[0]
    >>> StaticConvolution(source, *[InputRange(0.1, 0)] * 3).taps_D1W.shape
    torch.Size([8, 1, 4])
    """

    taps_D1W: Tensor
    scale_D: Tensor
    bias_D: Tensor

    def __init__(self, source: CausalConvolution, inside: InputRange, convolved: InputRange, hidden: InputRange):
        super().__init__()
        self.pointwise_in = OnnxStaticLinear(as_linear(source.pointwise_in), inside)
        self.pointwise_out = OnnxStaticLinear(as_linear(source.pointwise_out), hidden)
        conv, self.convolved = source.depthwise.conv, convolved
        self.dim, self.context = source.dim, source.context
        taps = quantised_weight(conv.weight)
        scale_D = taps.q_per_channel_scales()
        self.register_buffer("taps_D1W", taps.int_repr())
        self.register_buffer("scale_D", scale_D.float())
        bias_D = bias_of(conv).double() / (convolved.scale * scale_D)
        self.register_buffer("bias_D", bias_D.round().to(torch.int32))

    def init_state(self, batch: int, cached: int, zero: Tensor) -> List[Tensor]:
        """Return zeros (B, W, D)."""
        return [zero.expand(batch, self.context, self.dim)]

    def forward(self, x_BTD: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return the branch's output and the next state."""
        assert context.valid_N is None, "inference packs nothing"
        h_BTD = torch.cat([state[0], self.pointwise_in(x_BTD)], dim=1)
        quantised = _Quantise.apply(h_BTD, self.convolved)  # clips at zero, as the first ReLU does
        hidden_BTD = _Depthwise.apply(
            quantised, self.taps_D1W, self.scale_D, self.bias_D, self.convolved, self.pointwise_out.expected
        )
        return self.pointwise_out.multiply(hidden_BTD), [h_BTD[:, context.frames :]]


class _MultiHead(torch.autograd.Function):
    """Scaled dot-product attention of all heads; the queries are already scaled."""

    @staticmethod
    def forward(
        ctx: Any, query_BTD: Tensor, key_BSD: Tensor, value_BSD: Tensor, bias_BHTS: Tensor, heads: int
    ) -> Tensor:
        query, key, value = (part.unflatten(2, [heads, -1]).transpose(1, 2) for part in (query_BTD, key_BSD, value_BSD))
        context = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias_BHTS, scale=1.0)
        return context.transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(graph: Any, query_BTD: Any, key_BSD: Any, value_BSD: Any, bias_BHTS: Any, heads: int) -> Any:
        absent = graph.op("prim::Constant").setType(torch._C.NoneType.get())  # neither biases nor a padding mask
        inputs = (query_BTD, key_BSD, value_BSD, absent, absent, bias_BHTS)
        out = graph.op(f"{DOMAIN}::MultiHeadAttention", *inputs, num_heads_i=heads, scale_f=1.0)
        return _typed(out, query_BTD, torch.float32)


def multi_head(query_BTD: Tensor, key_BSD: Tensor, value_BSD: Tensor, bias_BHTS: Tensor, heads: int) -> Tensor:
    """Return the attention of all heads (B, T, D) as one operator; the queries are already scaled."""
    attended_BTD: Tensor = _MultiHead.apply(query_BTD, key_BSD, value_BSD, bias_BHTS, heads)
    return attended_BTD


class OneOperatorAttention(nn.Module):
    """A fused `CachedAttention` with position biases, all heads in one operator.

    Args:
        source: the attention, norms folded.

    >>> OneOperatorAttention(CachedAttention(8, 2, 0.0, 1.0)).heads
    2
    """

    def __init__(self, source: CachedAttention):
        super().__init__()
        self.dim, self.heads, self.qkv, self.out = source.dim, source.heads, source.qkv, source.out
        self.layer = source.layer

    def init_state(self, batch: int, cached: int, zero: Tensor) -> List[Tensor]:
        """Return zeros (B, C, 2D)."""
        return [zero.expand(batch, cached, 2 * self.dim)]

    def forward(self, x_BTD: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return the branch's output and the next state."""
        assert context.valid_N is None and context.position_BSD is None, "inference packs nothing; positions are a bias"
        query_BTD, new = self.qkv(x_BTD).split([self.dim, 2 * self.dim], dim=2)
        keys_values = torch.cat([state[0], new], dim=1)
        key_BSD, value_BSD = keys_values.split(self.dim, dim=2)
        bias_BHTS = attention_bias(context, self.layer)
        attended_BTD = multi_head(query_BTD, key_BSD, value_BSD, bias_BHTS, self.heads)
        return self.out(attended_BTD), [keys_values[:, context.frames :]]


def make_onnx_static(model: nn.Module, ranges: dict[str, InputRange]) -> None:
    """Replace the linear layers, convolutions and attention of a fused model, in place.

    A ReLU is dropped if the input range of the next layer begins at zero, because quantisation then clips there.

    Args:
        model: a fused model.
        ranges: input range of each layer, by name of the layer.
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
                    setattr(child, part, OnnxStaticLinear(getattr(child, part), range_of(*path, part)))
                setattr(module, child_name, OneOperatorAttention(child))
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, child_name, OnnxStaticLinear(child, range_of(name, child_name)))
