"""int8 in ONNX archives: which layers use it, its errors, and independent streams with constant scales."""

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import default_dtype, randomise, tiny_recipe, tiny_trained
from support.model import laws
from support.model.contexts import step_context
from support.model.onnx_steps import Steps
from support.model.streams import FRAME, audio, samples, step_op
from support.model.tones import RATE, ToneRun
from torch import Tensor, nn
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.results.result import joined_ids
from wenet_fusion_runtime.search.modes import GREEDY
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.offline import offline_step
from wenet_fusion_runtime.stream.recognizer import Recognizer

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.kernels.onnx_int8 import DOMAIN, OneOperatorAttention, OnnxStaticLinear, make_onnx_static
from wenet_fusion.export.kernels.static_int8 import InputRange, input_ranges
from wenet_fusion.export.speech import ErrorChange, Speech, read_speech
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.export.targets import onnx_archive
from wenet_fusion.export.targets.onnx_graph import operators, session, write_onnx
from wenet_fusion.export.verification import FLOAT32_TOLERANCE
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.layers.attention import CachedAttention
from wenet_fusion.model.layers.convolution import CausalConvolution
from wenet_fusion.model.layers.norm import fuse_norms
from wenet_fusion.trained_model import TrainedModel, load_trained

pytestmark = pytest.mark.usefixtures("float32")

INT8 = ExportOptions("onnx", "int8")
PRECISIONS = ("int8", "int8-dynamic")
# int8 may get two more of the test's words wrong: training gives other weights on another processor.
WER_INCREASE = 0.1
STEP_OF_INT8 = 0.02  # see test_precision.py
Export = Callable[[str], Path]


@pytest.fixture(scope="module")
def tones(tone_run: ToneRun) -> TrainedModel:
    """Return a trained model: the tokens of a random one change at any rounding."""
    return load_trained(tone_run.checkpoint)


@pytest.fixture(scope="module")
def speech(tone_run: ToneRun) -> list[Speech]:
    return read_speech(tone_run.dev_list, RATE, 20)


@pytest.fixture(scope="module")
def export(tones: TrainedModel, speech: list[Speech], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A function that exports the tones' model in a precision, once for all tests."""
    folder = tmp_path_factory.mktemp("onnx")

    def make(precision: str) -> Path:
        path = folder / precision
        if not path.exists():
            with default_dtype(torch.float32):
                export_model(tones, path, ExportOptions("onnx", precision, max_wer_increase=WER_INCREASE), speech)
        return path

    return make


# --- the archive


@pytest.mark.parametrize("precision", PRECISIONS)
def test_int8_is_in_the_linear_layers_and_nowhere_else(export: Export, tmp_path: Path, precision: str) -> None:
    with zipfile.ZipFile(export(precision)) as file:
        file.extractall(tmp_path)
    kernel = {"int8": "MatMulIntegerToFloat", "int8-dynamic": "MatMulInteger"}[precision]
    counts = {"step": 2 * 8 + 2, "rescore": 2 * 9}  # 8 per layer, subsampling, CTC head; 9 per decoder
    for stem, count in counts.items():
        graph = onnx.load(tmp_path / f"{stem}.onnx").graph
        constants = {tensor.name for tensor in graph.initializer}
        in_int8 = [node.name for node in graph.node if node.op_type == kernel]
        in_float = [
            node.name for node in graph.node if node.op_type in ("Gemm", "MatMul") and node.input[1] in constants
        ]
        assert len(in_int8) == count and in_float == []
        assert not any("/fbank/" in node.name for node in graph.node if "Quant" in node.op_type or node.name in in_int8)
    convolutions = operators(tmp_path / "step.onnx")
    assert convolutions["Conv"] + convolutions["QLinearConv"] == 5  # spectrum, subsampling, depthwise
    assert convolutions["QLinearConv"] == (2 if precision == "int8" else 0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_int8_says_what_it_costs(export: Export, precision: str) -> None:
    meta = load_model(export(precision)).meta
    assert (meta.precision, meta.requires) == (precision, "onnxruntime")
    checked = meta.verification
    assert FLOAT32_TOLERANCE < checked["largest_difference"] < 1.0 and checked["tolerance"] is None
    errors = ErrorChange(**checked["errors"])
    assert errors.utterances == (10 if precision == "int8" else 20) and errors.words > 20 and errors.before < 0.2
    assert errors.after <= errors.before + WER_INCREASE


def test_constant_scales_obey_the_batch_law_and_scales_of_a_call_do_not(export: Export) -> None:
    """A loud neighbour changes the scale of a whole call. The law holds up to rounding: sums of the front-end may round
    to the next step of the scale."""
    chunking, x, found = Chunking(4, 4), samples(0, 2, 12 * FRAME).float(), {}
    for precision in PRECISIONS:
        model = Steps(load_model(export(precision), backend="onnxruntime"))
        states = [model.init_state(1, *chunking) for _ in x]
        found[precision] = max(
            laws.batch(step_op(model, chunking), laws.join, [one * x[:1], other * x[1:]], states)
            for one, other in ((8, 0.05), (0.05, 8))
        )
    assert found["int8"] <= STEP_OF_INT8 < found["int8-dynamic"]


def test_constant_scales_give_the_same_tokens_in_any_cut_and_any_batch(export: Export, speech: list[Speech]) -> None:
    model, options = load_model(export("int8")), DecodingOptions(mode=GREEDY)
    recognizer, rng = Recognizer(model, options), np.random.default_rng(0)
    sounds = [utterance.samples for utterance in speech[:6]]
    loud = [gain * sound for gain, sound in zip((1.0, 0.3, 3.0, 1.0, 0.1, 1.0), sounds)]
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
        export_model(tones, tmp_path / "m.zip", INT8)
    assert list(tmp_path.iterdir()) == []


def test_int8_that_costs_too_much_is_refused(
    tones: TrainedModel, speech: list[Speech], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def coarse(model: nn.Module, ranges: dict[str, InputRange]) -> None:
        make_onnx_static(model, {name: found._replace(scale=300 * found.scale) for name, found in ranges.items()})

    monkeypatch.setattr(onnx_archive, "make_onnx_static", coarse)
    with pytest.raises(ValueError, match="m.zip is not kept: its word .* export float32, which .* to calibrate on$"):
        export_model(tones, tmp_path / "m.zip", INT8, speech)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"activation": "swish"}, {"positions": "rel_pos"}, {"conv_gate": "glu"}], ids=str)
def test_int8_is_for_fusionformers(tiny_units: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    recipe = tiny_recipe(tiny_units)
    encoder = dataclasses.replace(recipe.model.encoder, **change)
    trained = tiny_trained(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder)))
    with pytest.raises(ValueError, match="is for models with ReLU and position biases; take int8-dynamic"):
        export_model(trained, tmp_path / "m.zip", INT8, [Speech("a", audio(1.0), "one")])
    assert list(tmp_path.iterdir()) == []


# --- the graphs of int8

EXPECTED = InputRange(scale=1 / 32, zero_point=128)


def run(module: nn.Module, path: Path, **inputs: Tensor) -> Tensor:
    """Export a module and run its graph on inputs of another size: the first axis may have any size."""
    examples = {name: torch.zeros([7, *x.shape[1:]]) for name, x in inputs.items()}
    axes = {name: {0: "rows"} for name in (*inputs, "y")}
    write_onnx(module, examples, ["y"], axes, path, {}, [DOMAIN])
    return torch.from_numpy(session(path).run(None, {name: x.detach().numpy() for name, x in inputs.items()})[0])


@pytest.mark.parametrize("gain", [1.0, 1.5, 30.0])
def test_static_products_are_exact_sums_of_integers(tmp_path: Path, gain: float) -> None:
    """Values beyond the range are clipped; sums of one sign do not overflow."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 8)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.abs() + 0.5)
    static, x = (
        OnnxStaticLinear(layer, EXPECTED),
        gain * torch.cat([laws.noise(0, 2, 3, 64).float(), 4 * torch.ones(1, 3, 64)]),
    )
    weight = static.weight_KN * static.scale_N
    assert static.weight_KN.abs().max() <= 64 and laws.difference(weight, layer.weight.detach().t()) < 0.01
    integers = torch.clamp((x / EXPECTED.scale).round() + EXPECTED.zero_point, 0, 255) - EXPECTED.zero_point
    expected = integers * EXPECTED.scale @ weight + layer.bias
    assert laws.difference(run(static, tmp_path / "x.onnx", x=x), expected.detach()) < 1e-5


class Attention(nn.Module):
    def __init__(self, branch: nn.Module, frames: int):
        super().__init__()
        self.branch, self.frames = branch, frames

    def forward(self, x: Tensor, bias: Tensor, state: Tensor) -> Tensor:
        return self.branch(x, [state], step_context(self.frames, bias))[0]


def test_attention_in_one_operator_equals_its_definition(tmp_path: Path) -> None:
    """Also if a query sees one key only, and with a cache."""
    torch.manual_seed(0)
    source = fuse_norms(nn.Sequential(randomise(CachedAttention(8, 2, 0.0, 1.0))).eval())[0]
    x, state = laws.noise(1, 2, 3, 8).float(), laws.noise(2, 2, 4, 16).float()
    bias = laws.noise(3, 2, 2, 3, 7).float()
    bias[0, :, 1, 1:] = -1e9
    expected = source(x, [state], step_context(3, bias))[0].detach()
    found = run(Attention(OneOperatorAttention(source), 3), tmp_path / "x.onnx", x=x, bias=bias, state=state)
    assert laws.difference(found, expected) < 1e-5
    wrong = run(Attention(OneOperatorAttention(source), 3), tmp_path / "x.onnx", x=x, bias=0 * bias, state=state)
    assert laws.difference(wrong, expected) > laws.BROKEN


class Convolution(nn.Module):
    def __init__(self, branch: nn.Module, frames: int):
        super().__init__()
        self.branch, self.frames = branch, frames

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return self.branch(x, [state], step_context(self.frames))[0]


def test_the_convolution_in_int8_stays_close(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = fuse_norms(nn.Sequential(randomise(CausalConvolution(8, 4, 0.0, 1.0))).eval())
    x, state = laws.noise(1, 2, 9, 8).float(), laws.noise(2, 2, 3, 8).float().relu()
    ranges = input_ranges(source, lambda: source[0](x, [state], step_context(9)))
    expected = source[0](x, [state], step_context(9))[0].detach()
    make_onnx_static(source, ranges)
    found = run(Convolution(source[0], 9), tmp_path / "x.onnx", x=x, state=state)
    assert 1e-5 < laws.difference(found, expected) < 0.05
    assert operators(tmp_path / "x.onnx")["QLinearConv"] == 1
