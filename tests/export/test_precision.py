"""Precisions of the exported file: equal tokens where promised, laws under constant scales, and the error gate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.model import laws
from support.model.streams import FRAME, audio, samples, states_after, step_op
from support.model.tones import RATE, ToneRun
from torch import nn
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.results.result import joined_ids
from wenet_fusion_runtime.stream.offline import transcribe_offline

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.kernels import static_int8, torch_kernels
from wenet_fusion.export.kernels.convolution_kernels import DepthwiseTaps
from wenet_fusion.export.kernels.static_int8 import InputRange, StaticLinear
from wenet_fusion.export.kernels.torch_kernels import QUANTIZED_ENGINES, pack_kernels
from wenet_fusion.export.speech import ErrorChange, Speech, measure_errors, read_speech
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.export.verification import relative_difference, tolerance, verify
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.streaming import StreamingModel
from wenet_fusion.trained_model import TrainedModel, acoustic_model, fused_model, load_trained

CLOSE = 1e-5  # between two ways to sum in float32
# int8 may get three more of the test's words wrong: training gives other weights on another processor.
WER_INCREASE = 0.1
# A float32 sum may round differently in another batch or block, and then to another step of the next scale.
# Noise of 1e-6 in the spectrum, ten times the rounding of a sum, changed scores by at most 0.005.
STEP_OF_INT8 = 0.02

needs_fbgemm = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="torch has no FBGEMM on this machine"
)


@pytest.fixture(scope="module")
def tones(tone_run: ToneRun) -> TrainedModel:
    """Return a trained model: the tokens of a random one change at any rounding."""
    return load_trained(tone_run.checkpoint)


@pytest.fixture(scope="module")
def speech(tone_run: ToneRun) -> list[Speech]:
    return read_speech(tone_run.dev_list, RATE, 30)


@pytest.fixture(scope="module")
def export(
    tones: TrainedModel, speech: list[Speech], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A function that exports the tones' model in a precision, once for all tests."""
    folder = tmp_path_factory.mktemp("precision")

    def make(precision: str) -> Path:
        path = folder / precision
        if not path.exists():
            export_model(tones, path, ExportOptions(precision=precision, max_wer_increase=WER_INCREASE), speech)
        return path

    return make


@needs_fbgemm
@pytest.mark.parametrize("precision", list(QUANTIZED_ENGINES))
def test_every_precision_exports_and_says_so(
    export: Callable[[str], Path], tones: TrainedModel, speech: list[Speech], precision: str
) -> None:
    model = load_model(export(precision))
    assert (model.meta.precision, model.meta.requires) == (precision, QUANTIZED_ENGINES[precision])
    found = verify(acoustic_model(tones), model, [speech[0].samples], tolerance(precision))
    assert found.largest_difference <= min(
        tolerance(precision), 1.0
    )  # int8: the sweeps differ from the speech of the calibration
    if not precision.startswith("int8"):
        assert found.different_tokens == 0 and "errors" not in model.meta.verification
    else:
        errors = ErrorChange(**model.meta.verification["errors"])
        assert errors.utterances == (15 if precision == "int8" else 30) and errors.words > 25
        assert errors.after - errors.before <= WER_INCREASE and errors.chunk in model.meta.chunk_sizes
    if precision != "float32":
        assert found.largest_difference > 1e-5, "weights of lower precision leave a trace"


@needs_fbgemm
def test_packed_kernels_are_used(trained: TrainedModel) -> None:
    """Otherwise every precision could be float32 under another name."""
    kernels = {
        "float16-packed": "DynamicQuantizedLinear",
        "int8-dynamic": "DynamicQuantizedLinear",
        "int8": "StaticLinear",
    }

    def calibrate(model: StreamingModel) -> None:
        scores, _ = model.step(
            torch.from_numpy(audio(0.4))[None], torch.tensor([3200]), 8, 2, model.init_state(1, 1, 0)
        )
        model.rescore(scores[0], torch.tensor([[3]]), torch.tensor([1]))

    for precision, kernel in kernels.items():
        model = pack_kernels(fused_model(trained), precision, calibrate)
        plain = [name for name, module in model.named_modules() if type(module) is nn.Linear]
        assert plain == [] and kernel in repr(model)
        assert not any(isinstance(module, nn.Dropout) for module in model.modules())
    assert all(isinstance(layer.convolution.op.depthwise, DepthwiseTaps) for layer in model.encoder.layers)


@needs_fbgemm
def test_static_int8_obeys_split(export: Callable[[str], Path]) -> None:
    model, chunking = torch.jit.load(str(export("int8"))), Chunking(4, 4)
    op = step_op(model, chunking, with_ids=False)
    x, lengths = samples(0, 3, 12 * FRAME).float(), torch.tensor([12 * FRAME] * 3)
    states = model.concat_states(states_out_of_step(model, chunking))
    assert laws.split(op, states, x, lengths, [4 * FRAME, 8 * FRAME]) <= STEP_OF_INT8


@needs_fbgemm
@pytest.mark.parametrize("rows", [2, 3, 8, 17])
def test_static_int8_obeys_batch(export: Callable[[str], Path], rows: int) -> None:
    model, chunking = torch.jit.load(str(export("int8"))), Chunking(4, 4)
    op = step_op(model, chunking, with_ids=False)
    states = (states_out_of_step(model, chunking) * rows)[:rows]
    x = samples(0, rows, 4 * FRAME).float() * torch.logspace(-1, 1, rows)[:, None]
    assert laws.batch(op, model.concat_states, list(x.split(1)), states) <= STEP_OF_INT8


@needs_fbgemm
def test_dynamic_int8_does_not_obey_batch(export: Callable[[str], Path]) -> None:
    """A loud neighbour changes its scale, so it is stepped one chunk at a time and never batched."""
    model, chunking = torch.jit.load(str(export("int8-dynamic"))), Chunking(4, 4)
    x = samples(0, 2, 12 * FRAME).float()
    op = step_op(model, chunking, with_ids=False)
    states = [model.init_state(1, *chunking) for _ in range(2)]
    assert laws.batch(op, model.concat_states, [8 * x[:1], 0.01 * x[1:]], states) > STEP_OF_INT8


def states_out_of_step(model: torch.jit.ScriptModule, chunking: Chunking) -> list[laws.Tree]:
    """Return states of streams out of step, in float32, as the file computes them."""

    class InFloat32:
        init_state = staticmethod(model.init_state)

        @staticmethod
        def step(x: torch.Tensor, *rest: object) -> laws.Tree:
            return model.step(x.float(), *rest)

    states = states_after(InFloat32, chunking, [0, 2, 1])
    return [[tensor.float() if tensor.is_floating_point() else tensor for tensor in state] for state in states]


@needs_fbgemm
@pytest.mark.parametrize("engine", sorted({"qnnpack", "onednn"} & set(torch.backends.quantized.supported_engines)))
def test_weights_are_packed_for_their_engine_whatever_the_process_has_set(
    export: Callable[[str], Path], speech: list[Speech], monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    load, engines = torch.jit.load, []

    def recorded(*args: Any, **kwargs: Any) -> torch.jit.ScriptModule:
        engines.append(torch.backends.quantized.engine)
        return load(*args, **kwargs)

    for precision in ("float16-packed", "int8", "int8-dynamic"):
        path, outs = export(precision), []
        for setting in (torch.backends.quantized.engine, engine):
            monkeypatch.setattr(torch.backends.quantized, "engine", setting)
            monkeypatch.setattr(torch.jit, "load", recorded)
            model = load_model(path)
            assert torch.backends.quantized.engine == setting, "left as it was"
            samples = speech[0].samples[None, : 8 * FRAME]
            outs.append(model.step(samples, [8 * FRAME], 8, 2, model.init_state(1, 8, 2))[0].encoder_out)
            monkeypatch.undo()
        assert relative_difference(outs[1], outs[0]) < CLOSE
    assert set(engines) == {"fbgemm"} and len(engines) == 6


# --- refusals


def test_int8_needs_speech(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int8 needs speech to calibrate its scales on: give --data"):
        export_model(trained, tmp_path / "m.pt", ExportOptions(precision="int8"))
    assert list(tmp_path.iterdir()) == []


@needs_fbgemm
def test_int8_that_costs_too_much_is_refused(
    tones: TrainedModel, speech: list[Speech], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def coarse(linear: nn.Linear, relu: bool, found: InputRange) -> StaticLinear:
        return StaticLinear(linear, relu, found._replace(scale=1000 * found.scale))

    monkeypatch.setattr(static_int8, "StaticLinear", coarse)
    remedy = "export float32 or float16-packed, which does not change the text, or give more .* to calibrate on$"
    with pytest.raises(ValueError, match=f"is not kept: its word error rate is .*--max_wer_increase allows; {remedy}"):
        export_model(tones, tmp_path / "m.pt", ExportOptions(precision="int8"), speech)
    assert list(tmp_path.iterdir()) == []


def test_the_gate_counts_and_refuses() -> None:
    ErrorChange(0.10, 0.105, 200, 20, 3, 8).raise_above(0.005, Path("m.pt"), "export float32")
    with pytest.raises(
        ValueError, match=r"m.pt is not kept: .* rate is 10.60 % instead of 10.00 % \(200 words\).*; export float32$"
    ):
        ErrorChange(0.10, 0.106, 200, 20, 3, 8).raise_above(0.005, Path("m.pt"), "export float32")
    with pytest.raises(ValueError, match="the checkpoint itself makes 90 % errors on this speech"):
        ErrorChange(0.9, 0.9, 200, 20, 3, 8).raise_above(0.005, Path("m.pt"), "")
    for limit in (float("nan"), -0.1, 1.1):
        with pytest.raises(ValueError, match="--max_wer_increase .* must lie between 0 and 100"):
            ErrorChange(0.1, 0.1, 200, 20, 3, 8).raise_above(limit, Path("m.pt"), "")


def test_errors_are_measured_on_words(trained: TrainedModel, exported: Path) -> None:
    model = acoustic_model(trained)
    text = model.meta.vocabulary.text(joined_ids(transcribe_offline(model, audio(), 8, 2)))
    found = measure_errors(model, load_model(exported), [Speech("a", audio(), text), Speech("b", audio(0.0), "zero")])
    assert found.before == found.after > 0 and found.words == len(text.split()) + 1
    assert (found.utterances, found.changed) == (2, 0)
    with pytest.raises(ValueError, match="has a key twice"):
        measure_errors(model, model, [Speech("a", audio(0.2), "one")] * 2)
    with pytest.raises(ValueError, match="holds no word"):
        measure_errors(model, model, [Speech("a", audio(0.2), "")])


def test_each_chinese_character_is_a_word(trained: TrainedModel) -> None:
    model = acoustic_model(trained)
    found = measure_errors(model, model, [Speech("a", audio(0.2), "零一二 three")])
    assert found.words == 4


def test_errors_of_every_precision_are_measured_if_wanted(
    tones: TrainedModel, speech: list[Speech], tmp_path: Path
) -> None:
    for options in (ExportOptions(), ExportOptions(measure_errors=True)):
        errors = export_model(tones, tmp_path / "m.pt", options, speech[:3]).findings.errors
        assert (errors is not None) == options.measure_errors
    assert errors is not None and errors.before == errors.after and errors.changed == 0 and errors.utterances == 3
    # A high error rate prevents judging int8 files, but a file that equals the checkpoint is still kept.
    wrong = [utterance._replace(text="zero") for utterance in speech[:2]]
    found = export_model(tones, tmp_path / "m.pt", ExportOptions(measure_errors=True), wrong).findings.errors
    assert found is not None and found.before >= 1.0


def test_a_missing_engine_names_the_alternative(trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_kernels.QUANTIZED_ENGINES, "int8-dynamic", "an engine of the future")
    with pytest.raises(
        ValueError, match="an engine of the future, which this machine lacks: export with precision float32"
    ):
        pack_kernels(fused_model(trained), "int8-dynamic")
