"""Linear layers in int8 with constant scales, for torch: a row's result depends on neither block nor batch.

Shapes: N rows, I inputs, O outputs.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.ao.nn import intrinsic
from torch.ao.nn.quantized.modules.linear import LinearPackedParams
from torch.ao.quantization import HistogramObserver, PerChannelMinMaxObserver

# FBGEMM adds pairs of products in 16 bits on CPUs without VNNI. Eight-bit inputs and seven-bit weights never overflow
# there, 2 * 255 * 64 < 2 ** 15, so every CPU computes the same, also for inputs outside the calibrated range.
WEIGHT_BITS = 7


class InputRange(NamedTuple):
    """Conversion of a layer's input to uint8: round(x / scale) + zero_point."""

    scale: float
    zero_point: int


def quantised_weight(weight: Tensor) -> Tensor:
    """Return a weight (O, ...) in int8, with one symmetric scale per output."""
    half = 1 << (WEIGHT_BITS - 1)
    observer = PerChannelMinMaxObserver(
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-half, quant_max=half - 1
    )
    weight = weight.detach().float()
    observer(weight)
    scales, zeros = observer.calculate_qparams()
    return torch.quantize_per_channel(weight, scales.double(), zeros.to(torch.int64), 0, torch.qint8)


class StaticLinear(nn.Module):
    """A linear layer in int8 as one packed kernel, float32 in and out: (N, I) -> (N, O).

    Weights have one symmetric scale per output. All inputs have one scale, which calibration finds.

    Args:
        linear: a layer in float32.
        relu: apply a ReLU to the output.
        expected: range of the inputs.

    >>> layer = StaticLinear(nn.Linear(8, 4), relu=True, expected=InputRange(scale=0.1, zero_point=128))
    >>> bool((layer(torch.randn(3, 8)) >= 0).all())
    True
    """

    def __init__(self, linear: nn.Linear, relu: bool, expected: InputRange):
        super().__init__()
        self.relu = relu
        self.scale, self.zero_point = expected
        self.packed = LinearPackedParams(dtype=torch.qint8)
        self.packed.set_weight_bias(
            quantised_weight(linear.weight), None if linear.bias is None else linear.bias.detach().float()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Quantise the input, multiply, and return float32."""
        packed = self.packed._packed_params
        if self.relu:
            return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_relu_output_fp32(
                x, self.scale, self.zero_point, packed
            )
        return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(x, self.scale, self.zero_point, packed)


def input_ranges(model: nn.Module, run: Callable[[], None]) -> dict[str, InputRange]:
    """Observe the inputs of every linear layer and 1-D convolution below `model` while `run` uses it.

    A range leaves out rare outliers if this makes the mean squared error smaller (`HistogramObserver`).

    Returns:
        The ranges by module name.

    Raises:
        ValueError: a layer was never used, because the calibration speech has too few words.
    """
    observers = {
        name: HistogramObserver()
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv1d))
    }
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, observer=observer: observer(inputs[0].detach())
        )
        for name, observer in observers.items()
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    unused = [name for name, observer in observers.items() if not observer.histogram.any()]
    if unused:
        raise ValueError(f"calibration never used {', '.join(unused[:3])}: give speech with words in it")
    found = {}
    for name, observer in observers.items():
        scale, zero_point = observer.calculate_qparams()
        found[name] = InputRange(float(scale), int(zero_point))
    return found


def make_static(model: nn.Module, ranges: dict[str, InputRange]) -> None:
    """Replace the linear layers below `model`, and the ReLUs fused to them, by `StaticLinear`, in place."""
    for name, module in list(model.named_modules()):
        for child_name, child in [] if isinstance(module, intrinsic.LinearReLU) else list(module.named_children()):
            linear = child[0] if isinstance(child, intrinsic.LinearReLU) else child
            if isinstance(linear, nn.Linear):
                path = ".".join(filter(None, (name, child_name)))
                setattr(module, child_name, StaticLinear(linear, linear is not child, ranges[path]))
