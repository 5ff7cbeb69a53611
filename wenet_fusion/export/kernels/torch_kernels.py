"""Packed and quantised kernels for TorchScript on a CPU: packed weights, fused ReLUs, convolutions as products.

The results stay the same, up to the rounding of the precision.
"""

import copy
from collections.abc import Callable
from typing import Literal, Optional

import torch
from torch import nn
from torch.ao.nn import intrinsic
from torch.ao.quantization import float16_dynamic_qconfig, per_channel_dynamic_qconfig, quantize_dynamic
from wenet_fusion_runtime.model.torch_backend import packing_engine

from wenet_fusion.export.kernels.convolution_kernels import DepthwiseTaps, ProductSpectrum, UnfoldedSubsampling
from wenet_fusion.export.kernels.static_int8 import input_ranges, make_static
from wenet_fusion.model.frontend.fbank import Spectrum
from wenet_fusion.model.layers.convolution import CausalConvolution
from wenet_fusion.model.layers.feed_forward import FeedForward
from wenet_fusion.model.layers.norm import FusedConv
from wenet_fusion.model.layers.subsampling import Subsampling
from wenet_fusion.model.streaming import StreamingModel

Precision = Literal["float32", "float16-packed", "int8", "int8-dynamic"]  # the keys of QUANTIZED_ENGINES

# The quantized engine (torch.backends.quantized) that runs a precision's kernels.
QUANTIZED_ENGINES = {"float32": "none", "float16-packed": "fbgemm", "int8": "fbgemm", "int8-dynamic": "fbgemm"}


def pack_kernels(
    model: StreamingModel, precision: str, calibrate: Optional[Callable[[StreamingModel], None]] = None
) -> StreamingModel:
    """Return a copy of a model with kernels for inference on the CPU.

    Args:
        model: a fused model in eval mode.
        precision: precision of the weights of all linear layers. "float16-packed" computes in float32. "int8" has
            constant scales for the activations. "int8-dynamic" scales each block by its own range of values, so its
            results depend on the block and the batch.
        calibrate: runs a model over typical speech; "int8" needs it.

    Raises:
        ValueError: this torch lacks the quantized engine, or "int8" has no calibration.
    """
    engine = QUANTIZED_ENGINES[precision]
    if engine != "none" and engine not in torch.backends.quantized.supported_engines:
        raise ValueError(
            f"precision {precision} needs torch's quantized engine {engine}, which this machine lacks: "
            "export with precision float32"
        )
    with packing_engine(engine):
        return _packed(copy.deepcopy(model), precision, calibrate)


def _packed(
    model: StreamingModel, precision: str, calibrate: Optional[Callable[[StreamingModel], None]]
) -> StreamingModel:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, name, nn.Identity())
            elif isinstance(child, Subsampling) and precision != "float32":  # float32 gains nothing from it
                setattr(module, name, UnfoldedSubsampling(child))
            elif isinstance(child, Spectrum) and precision == "int8":  # depends less on the batch
                setattr(module, name, ProductSpectrum(child))
            elif name == "depthwise" and isinstance(child, FusedConv):
                setattr(module, name, DepthwiseTaps(child.conv))
    if precision == "int8":
        if calibrate is None:
            raise ValueError(
                "precision int8 needs speech to calibrate its scales on; or take int8-dynamic, which needs none"
            )
        ranges = input_ranges(model, lambda: calibrate(model))
    for module in list(model.modules()):
        if isinstance(module, FeedForward):
            _fuse_relu(module, "expand", "activation")
        elif isinstance(module, CausalConvolution):
            _fuse_relu(module, "pointwise_in", "gate")
        elif isinstance(module, UnfoldedSubsampling):
            _fuse_relu(module, "conv_2", "activation")
    if precision == "float32":
        return model
    if precision == "int8":
        make_static(model, ranges)
        return model
    qconfig = float16_dynamic_qconfig if precision == "float16-packed" else per_channel_dynamic_qconfig
    return quantize_dynamic(model, {nn.Linear: qconfig, intrinsic.LinearReLU: qconfig})


def _fuse_relu(module: nn.Module, linear: str, activation: str) -> None:
    """Move a ReLU into the linear layer before it, because packed kernels apply it while they write their result."""
    if isinstance(getattr(module, activation), nn.ReLU) and isinstance(getattr(module, linear), nn.Linear):
        setattr(module, linear, intrinsic.LinearReLU(getattr(module, linear), nn.ReLU()))
        setattr(module, activation, nn.Identity())
