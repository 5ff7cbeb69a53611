"""Variants of an encoder to be timed: TorchScript and onnxruntime, in several precisions."""

import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from parts.conformer_int8 import make_conformer_static
from parts.random_models import EncoderStep, LinearLayers, Shape, fresh_state
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from torch.utils.hooks import RemovableHandle

from wenet_fusion.export.kernels.calibration import calibration
from wenet_fusion.export.kernels.onnx_int8 import make_onnx_static
from wenet_fusion.export.kernels.static_int8 import input_ranges
from wenet_fusion.export.kernels.torch_kernels import Precision, pack_kernels
from wenet_fusion.export.targets.onnx_archive import OneChunkEncoder
from wenet_fusion.export.targets.onnx_graph import quantise_dynamic, session, write_onnx
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.encoder import Encoder
from wenet_fusion.model.encoder_state import growing_axes
from wenet_fusion.model.streaming import StreamingModel
from wenet_fusion.trained_model import TrainedModel, fused_model

try:
    from onnxruntime import InferenceSession
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize_dynamic_onnx
except ImportError as error:
    raise ImportError("the benchmarks need more: pip install -c constraints.txt -e '.[test,recipes]'") from error

FACTOR, BINS = 4, 80  # feature frames per encoder frame, mel bins
CALIBRATION_SECONDS = 8

Kind = Literal["float", "int8"]  # speeds are compared within a kind
Call = Callable[[], object]


class EncoderVariant(NamedTuple):
    """An encoder, or its linear layers alone, on one engine in one precision."""

    name: str  # engine and precision
    kind: Kind
    prepare: Callable[[Shape], Call]  # returns a function whose every call runs the next step of the streams


def scripted(module: nn.Module, frozen: bool) -> torch.jit.ScriptModule:
    """Return the module as TorchScript for inference; `frozen`: with its weights frozen into the graph."""
    script = torch.jit.script(module.eval())
    return torch.jit.freeze(script) if frozen else script


def torch_variant(name: str, kind: Kind, encoder: nn.Module, frozen: bool) -> EncoderVariant:
    """Return a variant in TorchScript, which runs like in our runtime: without autograd and profiling runs."""
    step = scripted(EncoderStep(encoder), frozen)

    def prepare(shape: Shape) -> Call:
        features, lengths = features_of(shape)
        features, lengths = features.to(encoder.zero), lengths.to(encoder.zero.device)
        size, left = shape.chunking
        state = fresh_state(encoder, shape)

        def call() -> None:
            nonlocal state
            with torch.inference_mode(), torch.jit.optimized_execution(False):
                _, state = step(features, lengths, size, left, state)

        return _filled(call, shape)

    return EncoderVariant(name, kind, prepare)


def tuned_encoder(trained: TrainedModel, precision: Precision, seed: int) -> Encoder:
    """Return the encoder as in the file of `wenet-fusion export --precision PRECISION`; int8 is calibrated on noise."""
    calibrate = noise_calibration(trained, seed) if precision == "int8" else None
    return pack_kernels(fused_model(trained), precision, calibrate).encoder


def static_onnx_encoder(trained: TrainedModel, seed: int) -> Encoder:
    """Return the encoder as in the file of `wenet-fusion export --format onnx --precision int8`; calibrate on noise."""
    model, calibrate = fused_model(trained), noise_calibration(trained, seed)
    make_onnx_static(model, input_ranges(model, lambda: calibrate(model)))
    return model.encoder


def static_conformer(trained: TrainedModel, seed: int, convolutions: bool) -> StreamingModel:
    """Return a Conformer for onnxruntime in int8 with constant scales, calibrated on noise; see
    `make_conformer_static`.
    """
    model, calibrate = fused_model(trained), noise_calibration(trained, seed)
    make_conformer_static(model, lambda: calibrate(model), convolutions)
    return model


def noise_calibration(trained: TrainedModel, seed: int) -> Callable[[StreamingModel], None]:
    """Return a function that runs a model on noise with every chunking for which it was trained."""
    sample_rate = trained.config.model.frontend.sample_rate
    noise = np.random.default_rng(seed).normal(0, 0.1, CALIBRATION_SECONDS * sample_rate).astype(np.float32)
    chunkings = trained.config.training.chunking.served()
    return calibration([noise] * len(chunkings), chunkings)


def dynamic_int8(encoder: Encoder) -> Encoder:
    """Quantise linear layers to int8 with `torch.ao`, which computes the scales of activations in each call."""
    return quantize_dynamic(copy.deepcopy(encoder), {nn.Linear})


def linear_layers_variant(name: str, kind: Kind, encoder: nn.Module, plain: Encoder, frozen: bool) -> EncoderVariant:
    """Return a variant of only the linear layers of an encoder, with inputs of the same sizes as in a step.

    Args:
        encoder: the encoder in the precision to time.
        plain: the same encoder in float32, to find its linear layers by type.
    """
    names = [name for name, module in plain.named_modules() if isinstance(module, nn.Linear)]
    layers = [encoder.get_submodule(name) for name in names]
    alone = scripted(LinearLayers(layers), frozen)

    def prepare(shape: Shape) -> Call:
        inputs = _inputs_of(plain, names, shape)

        def call() -> None:
            with torch.inference_mode(), torch.jit.optimized_execution(False):
                alone(inputs)

        return call

    return EncoderVariant(name, kind, prepare)


def _inputs_of(encoder: Encoder, names: list[str], shape: Shape) -> list[Tensor]:
    """Run the first step, and return the input of each named layer."""
    inputs: dict[str, Tensor] = {}

    def watch(name: str) -> RemovableHandle:
        layer = encoder.get_submodule(name)
        return layer.register_forward_pre_hook(lambda _, given: inputs.update({name: given[0]}))

    handles = [watch(name) for name in names]
    features, lengths = features_of(shape)
    with torch.no_grad():
        EncoderStep(encoder)(features, lengths, *shape.chunking, fresh_state(encoder, shape))
    for handle in handles:
        handle.remove()
    return [inputs[name].contiguous() for name in names]


def features_of(shape: Shape) -> tuple[Tensor, Tensor]:
    """Return noise for one chunk of each stream, and the numbers of encoder frames."""
    size = shape.chunking.size
    features = torch.randn(shape.batch, FACTOR * size, BINS, generator=torch.Generator().manual_seed(size))
    return features, torch.full([shape.batch], size)


def _filled(call: Call, shape: Shape) -> Call:
    """Call until the left context is full; return the function."""
    for _ in range(shape.chunking.left + 1):
        call()
    return call


# --- onnxruntime


class _Graph(nn.Module):
    """`EncoderStep` with a separate argument for each tensor of the state, as the ONNX exporter needs it."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.step = EncoderStep(OneChunkEncoder(copy.deepcopy(encoder)))

    def forward(self, features: Tensor, lengths: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        frames, new = self.step(features, lengths, 0, 0, list(state))
        return (frames, *new)


def write_graph(encoder: Encoder, path: Path, domains: Sequence[str] = ()) -> None:
    """Write an encoder as ONNX for any batch, chunk size and left context; see `write_onnx` for `domains`."""
    batch, frames, cached = 2, 3, 5
    state = fresh_state(encoder, Shape(Chunking(cached, 1), batch))
    names = [f"state_{index}" for index in range(len(state))]
    inputs = {"features": torch.zeros(batch, FACTOR * frames, BINS), "lengths": torch.full([batch], frames)}
    inputs |= dict(zip(names, state))
    outputs = ["frames", *(f"next_{name}" for name in names)]
    axes = {name: {0: "batch"} for name in [*inputs, *outputs]}
    axes["features"][1], axes["frames"][1] = "features", "frames"
    for name, axis in zip(names, growing_axes(state, fresh_state(encoder, Shape(Chunking(cached + 1, 1), batch)))):
        if axis >= 0:
            axes[name][axis] = axes[f"next_{name}"][axis] = "cache"
    write_onnx(_Graph(encoder), inputs, outputs, axes, path, {}, domains)


def quantise(source: Path, target: Path, precision: Literal["int8", "uint8"]) -> Path:
    """Quantise the matrix products of a graph to 8 bits: "int8" as our export does, with a scale per output; "uint8"
    with a scale per matrix.
    """
    if precision == "int8":
        quantise_dynamic(source, target)
        return target
    logging.disable(logging.WARNING)  # onnxruntime recommends a preprocessing that has no effect here
    quantize_dynamic_onnx(source, target, op_types_to_quantize=["MatMul"], weight_type=QuantType.QUInt8)
    logging.disable(logging.NOTSET)
    return target


def onnx_variant(name: str, kind: Kind, path: Path) -> EncoderVariant:
    """Return the variant of a graph of `write_graph` in onnxruntime, with one thread."""
    opened = session(path)
    return EncoderVariant(name, kind, lambda shape: onnx_call(opened, shape))


def onnx_call(opened: InferenceSession, shape: Shape) -> Call:
    """Return a function whose every call runs the next step of the streams, in a graph of `write_graph`."""
    features, lengths = features_of(shape)
    values: dict[str, Any] = {"features": features.numpy(), "lengths": lengths.numpy()}
    names = [node.name for node in opened.get_inputs()[2:]]
    sizes = {"batch": shape.batch, "cache": shape.cached}
    for node in opened.get_inputs()[2:]:
        dtype = np.int64 if "int64" in node.type else np.float32
        values[node.name] = np.zeros([sizes.get(size, size) for size in node.shape], dtype)

    def call() -> None:
        _, *state = opened.run(None, values)
        values.update(zip(names, state))

    return _filled(call, shape)
