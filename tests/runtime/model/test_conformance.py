"""Models that differ from their meta.json give one error that names the file, in every command and interface."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.runtime.engine_clients import Client
from support.runtime.fake_model import (
    FRAME,
    SAVERS,
    meta_record,
    onnx_record,
    save_archive,
    save_model,
    speak,
)
from wenet_fusion_runtime import AcousticModel, Engine, Recognizer
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.model.conformance import ModelFault
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.server.errors import ClientError, Reason
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.server.service import Service
from wenet_fusion_runtime.server.session_options import SessionOptions

RECORDS = {"torchscript": meta_record(), "onnx": onnx_record()}
ONE_CHUNK = np.zeros((1, 4 * FRAME), np.float32)
PROMISE = "model.zip: the model does not run as its meta.json describes it .*{}.*; export the model again"


def nan_when_loud(path: Path) -> AcousticModel:
    """Save a model whose scores are NaN for audio as loud as d."""
    model = load_model(save_model(path))
    real = model.backend.step

    def step(samples: np.ndarray, *rest: Any) -> Any:
        scores, state = real(samples, *rest)
        scores.blank[np.abs(samples).mean(1) > 0.5] = np.nan
        return scores, state

    model.backend.step = step
    return model


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize(
    "change, found",
    [
        ({"frame_samples": 4 * FRAME}, "encoder_out is float32 .1, 16, 2., expected float .1, 4, 2."),
        ({"units": RECORDS["onnx"]["units"][:6]}, "ids is 0 to 6, expected tokens of the 6 units"),
    ],
)
def test_a_file_that_does_not_fit_its_metadata_is_refused_before_any_audio(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, change: dict, found: str
) -> None:
    """The recognizer and the commands refuse the file; the commands print only one line."""
    path = SAVERS[kind](tmp_path / "model.zip", RECORDS[kind] | change)
    with pytest.raises(ModelFault, match=PROMISE.format(found)):
        Recognizer(path)
    capfd.readouterr()
    for arguments in (["transcribe", str(path), "a.wav"], ["serve", str(path), "--port", "0"]):
        assert main(arguments) == 1
        out, err = capfd.readouterr()
        assert out == "" and err.startswith(f"error: {path}: the model does not run") and err.count("\n") == 1


def test_what_the_graphs_refuse_names_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save_archive(tmp_path / "model.zip", onnx_record() | {"frame_samples": 1})
    with pytest.raises(ModelFault, match=PROMISE.format("Reshape")):
        Recognizer(path)
    assert capfd.readouterr().err == "", "onnxruntime prints its errors too"


@pytest.mark.parametrize(
    "field, change, message",
    [
        ("encoder_out", lambda x: x[:, :3], r"encoder_out is float32 \(1, 3, 2\), expected float \(1, 4, 2\)"),
        ("encoder_out", lambda x: x[0], r"encoder_out is float32 \(4, 2\)"),
        ("lengths", lambda x: x - 1, r"lengths is \[3\], expected \[4\]"),
        ("lengths", lambda x: x[None], r"lengths is int64 \(1, 1\), expected int \(1,\)"),
        ("lengths", lambda x: x.astype(float), r"lengths is float64 \(1,\), expected int"),
        ("log_probs", lambda x: x[:, :, :-1], r"log_probs is float32 \(1, 4, 4\), expected float \(1, 4, 5\)"),
        ("ids", lambda x: x - 1, "ids is .*, expected tokens of the 7 units"),
        ("ids", lambda x: x + 7, "ids is .*, expected tokens of the 7 units"),
        ("ids", lambda x: x.astype(np.float32), "ids is float32"),
        ("blank", lambda x: x[:, :, None], r"blank is float32 \(1, 4, 1\), expected float \(1, 4\)"),
        ("blank", lambda x: x.tolist(), "has no attribute"),
    ],
)
def test_every_result_of_a_step_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, change: Callable, message: str
) -> None:
    model = load_model(save_archive(tmp_path / "model.zip"))
    real = model.backend.step

    def wrong(*arguments: Any) -> Any:
        scores, state = real(*arguments)
        return scores._replace(**{field: change(getattr(scores, field))}), state

    monkeypatch.setattr(model.backend, "step", wrong)
    with pytest.raises(ModelFault, match=PROMISE.format(message)):
        model.step(ONE_CHUNK, [4 * FRAME], 4, 1, model.init_state(1, 4, 1))


@pytest.mark.parametrize("index, message", [(0, "state_0 is float32"), (1, "state_1 is int32"), (2, "state_2 is")])
def test_the_state_of_an_archive_keeps_its_types_and_sizes(tmp_path: Path, index: int, message: str) -> None:
    model = load_model(save_archive(tmp_path / "model.zip"))
    session = model.backend._step

    def run(names: None, inputs: dict) -> list[np.ndarray]:
        outputs = session.run(names, inputs)
        state = outputs[5 + index]
        outputs[5 + index] = state.astype(np.int32) if state.ndim == 1 else state[:, 1:]
        return outputs

    model.backend._step = type("Session", (), {"run": staticmethod(run)})
    with pytest.raises(ModelFault, match=PROMISE.format(message)):
        model.step(ONE_CHUNK, [4 * FRAME], 4, 1, model.init_state(1, 4, 1))


@pytest.mark.parametrize(
    "scores, message",
    [
        (np.zeros((1, 1), np.float32), PROMISE.format(r"scores is float32 \(1, 1\), expected float \(1, 2\)")),
        (np.full((1, 2), np.nan), "model.zip: the model's output is not a number"),
    ],
)
def test_the_scores_of_the_decoders_are_compared(tmp_path: Path, scores: np.ndarray, message: str) -> None:
    model = load_model(save_archive(tmp_path / "model.zip"))
    model.backend.rescore = lambda *_: scores
    with pytest.raises(ModelFault, match=message):
        model.rescore([np.zeros((1, 3, 2), np.float32)], [(3,)])


def test_mistakes_of_callers_are_not_faults_of_the_model(tmp_path: Path) -> None:
    model = load_model(save_archive(tmp_path / "model.zip"))
    for samples, left in ((ONE_CHUNK[:, 1:], 1), (ONE_CHUNK, 2)):
        with pytest.raises(ValueError) as error:
            model.step(samples, [5], 4, left, model.init_state(1, 4, 1))
        assert not isinstance(error.value, ModelFault)


def test_a_fault_that_shows_late_blames_the_model_and_no_client(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.zip"
    recognizer = Recognizer(nan_when_loud(path))
    with (
        pytest.raises(ModelFault, match="model.zip: the model's output is not a number"),
        recognizer.create_stream() as stream,
    ):
        stream.accept_waveform(speak("dd", frames=16))
    with Engine(recognizer.model) as engine:
        bad, good = Client(engine, recognizer), Client(engine, recognizer)
        bad.say(speak("dd", frames=16))
        good.say(speak("ab"))
        assert good.wait().text == "a b"
        error = bad.wait().error
        assert isinstance(error, ModelFault) and str(path) in str(error)

        async def serve() -> tuple[ClientError, ClientError]:
            service = Service(recognizer, engine, Limits())
            return service.session_error(error, "1.2.3.4"), service.session_error(ValueError("short"), "1.2.3.4")

        found, other = asyncio.run(serve())
        assert (found.reason, found.message) == (Reason.INTERNAL, "the server failed; the reason is in its log")
        assert other.reason is Reason.SAMPLES
        assert f"1.2.3.4: the session failed: {path}: the model's output is not a number" in caplog.text
        assert "Traceback" not in caplog.text


def test_a_model_that_cannot_begin_a_stream_is_not_blamed_on_the_client(tmp_path: Path) -> None:
    recognizer = Recognizer(save_archive(tmp_path / "model.zip"))

    def broken(*_: Any) -> Any:
        raise RuntimeError("no such kernel")

    async def opened() -> None:
        with Engine(recognizer.model) as engine:
            service = Service(recognizer, engine, Limits())
            recognizer.model.backend.init_state = broken
            await service.open(SessionOptions())

    with pytest.raises(ClientError) as error:
        asyncio.run(opened())
    assert error.value.reason is Reason.INTERNAL
