"""int8 in ONNX graphs: where it is, what it costs, and that constant scales keep what a stream hears to itself."""

import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import laws
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import default_dtype
from onnx_steps import Steps
from streams import FRAME, samples, step_op
from tones import RATE, ToneRun
from torch import Tensor, nn

from wenet_fusion.chunking import Chunking
from wenet_fusion.export import onnx_archive
from wenet_fusion.export.acceptance import ExportOptions
from wenet_fusion.export.onnx_archive import export_onnx_archive
from wenet_fusion.export.onnx_graph import operators, session, write_onnx
from wenet_fusion.export.onnx_int8 import quantise_dynamic, quantise_static
from wenet_fusion.export.speech import ErrorChange, Speech, read_speech
from wenet_fusion.export.static_int8 import InputRange
from wenet_fusion.export.verification import FLOAT32_TOLERANCE
from wenet_fusion.recipe import TrainedModel, load_trained
from wenet_fusion_runtime.decoding import GREEDY, DecodingOptions, offline_step
from wenet_fusion_runtime.model_file import load_model
from wenet_fusion_runtime.recognizer import Recognizer
from wenet_fusion_runtime.result import joined_ids

pytestmark = pytest.mark.usefixtures("float32")

PRECISIONS = ("int8", "int8-dynamic")
Export = Callable[[str], Path]


@pytest.fixture(scope="module")
def tones(tone_run: ToneRun) -> TrainedModel:
    """A model that has learned something: a random one's tokens turn at any rounding."""
    return load_trained(tone_run.checkpoint)


@pytest.fixture(scope="module")
def speech(tone_run: ToneRun) -> list[Speech]:
    return read_speech(tone_run.dev_list, RATE, 20)


@pytest.fixture(scope="module")
def export(tones: TrainedModel, speech: list[Speech], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports the tones' model in a precision, once."""
    folder = tmp_path_factory.mktemp("onnx")

    def make(precision: str) -> Path:
        path = folder / precision
        if not path.exists():
            with default_dtype(torch.float32):
                export_onnx_archive(tones, path, speech, ExportOptions(precision, max_wer_increase=0.05))
        return path

    return make


# --- the archive


@pytest.mark.parametrize("precision", PRECISIONS)
def test_int8_is_in_the_linear_layers_and_nowhere_else(export: Export, tmp_path: Path, precision: str) -> None:
    with zipfile.ZipFile(export(precision)) as file:
        file.extractall(tmp_path)
    counts = {"step": 2 * 8 + 2, "rescore": 2 * 9}  # of each layer, the subsampling's and the CTC head; of each decoder
    for stem, count in counts.items():
        graph = onnx.load(tmp_path / f"{stem}.onnx").graph
        constants = {tensor.name for tensor in graph.initializer}
        made_by = {output: node.op_type for node in graph.node for output in node.output}
        in_int8 = [node.name for node in graph.node if node.op_type == "MatMulInteger" or reads_integers(node, made_by)]
        in_float = [node.name for node in graph.node if node.op_type in ("Gemm", "MatMul") and node.input[1] in constants]
        assert len(in_int8) == count and in_float == []
        assert not any("/fbank/" in node.name for node in graph.node if "Quant" in node.op_type or node.name in in_int8)
    assert operators(tmp_path / "step.onnx")["Conv"] == 5  # spectrum, subsampling, depthwise


def reads_integers(node: onnx.NodeProto, made_by: dict[str, str]) -> bool:
    return node.op_type in ("Gemm", "MatMul") and all(made_by.get(name) == "DequantizeLinear" for name in node.input)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_int8_says_what_it_costs(export: Export, precision: str) -> None:
    meta = load_model(export(precision)).meta
    assert (meta.precision, meta.engine) == (precision, "onnxruntime")
    checked = meta.verification
    assert FLOAT32_TOLERANCE < checked["largest_difference"] < 0.6 and checked["tolerance"] is None
    errors = ErrorChange(**checked["errors"])
    assert errors.utterances == (10 if precision == "int8" else 20) and errors.words > 20 and errors.before < 0.2
    assert errors.after <= errors.before + 0.05


def test_constant_scales_obey_the_batch_law_and_scales_of_a_call_do_not(export: Export) -> None:
    """A loud neighbour moves the scale of a whole call. Up to rounding: sums of the front-end may fall to the other
    side of a step of the scale."""
    chunking, x = Chunking(4, 4), samples(0, 2, 12 * FRAME).float()
    rows, found = [8 * x[:1], 0.05 * x[1:]], {}
    for precision in PRECISIONS:
        model = Steps(load_model(export(precision)))
        states = [model.init_state(1, *chunking) for _ in rows]
        found[precision] = laws.batch(step_op(model, chunking), laws.join, rows, states)
    assert found["int8"] <= 0.02 < found["int8-dynamic"]


def test_constant_scales_give_the_same_tokens_in_any_cut_and_any_batch(export: Export, speech: list[Speech]) -> None:
    model, options = load_model(export("int8")), DecodingOptions(mode=GREEDY)
    recognizer, rng = Recognizer(model, options), np.random.default_rng(0)
    heard = [utterance.samples for utterance in speech[:6]]
    loud = [gain * sound for gain, sound in zip((1.0, 0.3, 3.0, 1.0, 0.1, 1.0), heard)]
    together = offline_step(model, loud, 4, 4)
    for row, sound in enumerate(loud):
        alone = offline_step(model, [sound], 4, 4).row(0)[0].ids[:, 0]
        assert (together.row(row)[0].ids[:, 0] == alone).all()
        stream = recognizer.create_stream(4, 4)
        for block in np.split(sound, np.sort(rng.integers(0, len(sound), 5))):
            stream.accept_waveform(block)
        stream.finish()
        expected = [token for token, before in zip(alone, [0, *alone]) if token not in (0, before)]
        assert joined_ids(stream.finals) == expected and len(expected) > 0


def test_int8_needs_speech(tones: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int8 needs speech to calibrate its scales on: give --data"):
        export_onnx_archive(tones, tmp_path / "m.zip", (), ExportOptions("int8"))
    assert list(tmp_path.iterdir()) == []


def test_int8_that_costs_too_much_is_refused(
    tones: TrainedModel, speech: list[Speech], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def coarse(source: Path, target: Path, ranges: dict[str, InputRange]) -> None:
        quantise_static(source, target, {name: found._replace(scale=300 * found.scale) for name, found in ranges.items()})

    monkeypatch.setattr(onnx_archive, "quantise_static", coarse)
    with pytest.raises(ValueError, match="m.zip is not kept: its word error rate is .*--max_wer_increase"):
        export_onnx_archive(tones, tmp_path / "m.zip", speech, ExportOptions("int8"))
    assert list(tmp_path.iterdir()) == []


# --- graphs


EXPECTED = InputRange(scale=1 / 32, zero_point=128)


class Residual(nn.Module):
    """A product whose input is read by something else too."""

    def __init__(self, bias: bool = True):
        super().__init__()
        self.linear = nn.Linear(8, 8, bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x)


def written(module: nn.Module, path: Path, dims: int = 2) -> Path:
    example = torch.zeros(3, 8) if dims == 2 else torch.zeros(2, 3, 8)  # a Gemm, or a MatMul
    write_onnx(module, {"x": example}, ["y"], {"x": {0: "n"}}, path, {"head": "4"})
    return path


def run(path: Path, x: Tensor) -> Tensor:
    return torch.from_numpy(session(path).run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize("quantise", [quantise_dynamic, lambda *paths: quantise_static(*paths, {"linear": EXPECTED})])
def test_metadata_and_sizes_survive(quantise: Callable[[Path, Path], None], tmp_path: Path) -> None:
    exact, rounded = written(Residual(), tmp_path / "x.onnx"), tmp_path / "x.int8.onnx"
    quantise(exact, rounded)
    assert session(rounded).get_modelmeta().custom_metadata_map["head"] == "4"
    x = laws.noise(0, 5, 8).float()
    assert 0 < (run(rounded, x) - run(exact, x)).abs().max() < 0.05


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_static_products_are_exact_sums_of_integers(tmp_path: Path, bias: bool, dims: int) -> None:
    """What lies beyond the range is clipped; the residual branch stays as it is."""
    torch.manual_seed(0)
    module, path = Residual(bias), tmp_path / "x.onnx"
    quantise_static(written(module, path, dims), path, {"linear": EXPECTED})
    x = 3 * laws.noise(0, 5, 3, 8).float()
    x = x if dims == 3 else x[:, 0]
    weight = run_weight(path)
    integers = torch.clamp((x / EXPECTED.scale).round() + EXPECTED.zero_point, 0, 255) - EXPECTED.zero_point
    expected = x + integers * EXPECTED.scale @ weight + (module.linear.bias if bias else 0)
    assert laws.difference(run(path, x), expected) < 1e-4
    assert laws.difference(weight, module.linear.weight.detach().t()) < 0.01


def run_weight(path: Path) -> Tensor:
    """The weight (I, O) that a quantised graph holds."""
    held = {tensor.name.rpartition("/")[2]: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    weight, scales = held["weight_integers"], held["weight_scales"]
    assert weight.dtype == np.int8 and np.abs(weight.astype(int)).max() <= 64
    gemm = operators(path)["Gemm"]
    return torch.from_numpy(weight.T * scales if gemm else weight * scales)


def test_a_bias_beside_weights_of_zero_survives(tmp_path: Path) -> None:
    module, path = Residual(), tmp_path / "x.onnx"
    with torch.no_grad():
        module.linear.weight[2] = 0.0
        module.linear.bias[2] = 50.0
    quantise_static(written(module, path), path, {"linear": InputRange(1e-3, 128)})
    x = torch.zeros(1, 8)
    assert laws.difference(run(path, x), module(x).detach()) < 0.01


def test_products_become_kernels_in_int8(tmp_path: Path) -> None:
    """What onnxruntime does not recognise it computes in float, slower than before."""
    for dims in (2, 3):
        path, optimised = tmp_path / "x.onnx", tmp_path / "optimised.onnx"
        quantise_static(written(Residual(), path, dims), path, {"linear": EXPECTED})
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(optimised), 3
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        kernels = Counter(node.op_type for node in onnx.load(optimised).graph.node)
        assert kernels["QGemm"] + kernels["MatMulIntegerToFloat"] == 1 and not kernels["DequantizeLinear"]


def test_a_layer_that_calibration_does_not_know_is_named(tmp_path: Path) -> None:
    path = written(Residual(), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="x.onnx is not written: calibration knows no linear layer linear; known: other"):
        quantise_static(path, path, {"other": EXPECTED})
