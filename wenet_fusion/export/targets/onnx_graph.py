"""Write modules as ONNX graphs; quantise and open graphs, and count their operators."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from wenet_fusion_runtime.console import unusable_package

from wenet_fusion.export.tracing import quiet

if TYPE_CHECKING:
    import onnxruntime

# Parts of operator names that a fused encoder must not contain. The exporter writes Swish and GLU with Sigmoid.
ONNX_NORMS = ("Normalization", "ReduceMean")
ONNX_COSTLY_ACTIVATIONS = ("Sigmoid", "Tanh", "Erf", "Elu", "LeakyRelu", "Swish", "Mish", "Softplus")
OPSET = 17  # the first one with LayerNormalization as an operator; onnxruntime 1.12 and later run it
_LOG_ERRORS = 3
_MISSING = "export to ONNX needs {}, which is not installed: pip install 'wenet-fusion[onnx]'"


def write_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]],
    path: Path,
    metadata: Mapping[str, str],
    domains: Sequence[str] = (),
) -> None:
    """Trace a module in eval mode, check its graph and write it.

    Args:
        module: the module; it is called with the inputs in their order.
        inputs: an example of each input, by name. Give each dynamic axis its own size, so that no two are confused.
        outputs: names of the outputs, flattened.
        dynamic_axes: name of an input or output -> the axes that may have any size, and their names.
        path: the file.
        metadata: strings to write into the graph.
        domains: domains of the operators that are not ONNX's own.

    Raises:
        ImportError: onnx is not installed.
        ValueError: the exporter lost an input or output, or the graph is not valid.
    """
    onnx = _import_onnx()
    buffer = io.BytesIO()
    axes = {name: dict(dynamic) for name, dynamic in dynamic_axes.items()}
    with quiet(), torch.no_grad(), _ConstantShapes():
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type]  # the tracing exporter writes to files in memory too
            dynamo=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            custom_opsets=dict.fromkeys(domains, 1),
            autograd_inlining=False,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    found = [value.name for value in graph.graph.input]
    lost = [name for name in inputs if name not in found]
    if lost:
        raise ValueError(f"{path} is not written: the exporter lost the input {', '.join(lost)}: nothing depends on it")
    if found != list(inputs) or [value.name for value in graph.graph.output] != list(outputs):
        raise ValueError(f"{path} is not written: the exporter changed the order or number of inputs or outputs")
    onnx.helper.set_model_props(graph, dict(metadata))
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"{path} is not written: the exported graph is not valid ({error})") from None
    onnx.save(graph, str(path))


def quantise_dynamic(source: Path, target: Path) -> None:
    """Write a graph again with the weights of its linear layers in int8, one scale per output channel.

    Linear layers are the products with a constant right factor; convolutions and products of two activations stay in
    float. Activations get one scale per call, so the result for a row depends on the rest of the block and the batch.
    Weights have 7 bits: with 8, sums overflow on x86 processors without VNNI.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
    """
    _import_onnx()
    quantization = _import_onnxruntime().quantization
    with quiet():
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],  # a Gemm becomes a MatMul first
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
        )


def session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Open a graph to run it on the CPU.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    ort = _import_onnxruntime()
    return ort.InferenceSession(str(path), _options(ort, threads), providers=["CPUExecutionProvider"])


def operators(graph: Path | bytes) -> Counter[str]:
    """Count the operators of a graph, given as a file or as the contents of a file.

    Raises:
        ImportError: onnx is not installed.
    """
    content = graph if isinstance(graph, bytes) else graph.read_bytes()
    return Counter(node.op_type for node in _import_onnx().load_from_string(content).graph.node)


def versions() -> dict[str, str]:
    """Return the versions of the packages that write and run graphs.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
    """
    return {"onnx": _import_onnx().__version__, "onnxruntime": _import_onnxruntime().__version__}


class _Reshape(torch.autograd.Function):
    """Reshape to a constant shape, in which 0 means "as in the input", so that the graph computes no shapes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> Tensor:
        return x.reshape([x.size(i) if size == 0 else size for i, size in enumerate(sizes)])

    @staticmethod
    def symbolic(graph: Any, x: Any, sizes: list[int]) -> Any:
        return graph.op("Reshape", x, graph.op("Constant", value_t=torch.tensor(sizes)))


class _ConstantShapes(TorchFunctionMode):
    """Write `unflatten` of the last axis, and `flatten` up to the last axis, as reshapes to constant shapes.

    `unflatten` of another axis becomes a reshape to sizes that the graph computes. The exporter itself would write the
    sizes of the example as constants.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is Tensor.unflatten and not kwargs:
            x, dim, sizes = args[0], args[1] % args[0].dim(), args[2]
            if dim == x.dim() - 1:  # the exporter infers shapes with a 0 only if there is also a -1
                return _Reshape.apply(x, [0] * dim + [int(size) for size in sizes[:-1]] + [-1])
            return x.reshape([*x.shape[:dim], *sizes, *x.shape[dim + 1 :]])
        if function is Tensor.flatten and not kwargs and len(args) == 2:
            return _Reshape.apply(args[0], [0] * (args[1] % args[0].dim()) + [-1])
        return function(*args, **(kwargs or {}))


def _options(ort: ModuleType, threads: int) -> onnxruntime.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS
    return options


def _import_onnx() -> ModuleType:
    try:
        import onnx
    except (ImportError, OSError, MemoryError) as error:
        raise unusable_package("onnx", _MISSING.format("onnx"), error) from error
    return onnx


def _import_onnxruntime() -> ModuleType:
    try:
        import onnxruntime.quantization
    except (ImportError, OSError, MemoryError) as error:
        raise unusable_package("onnxruntime", _MISSING.format("onnxruntime"), error) from error
    return onnxruntime
