"""Inspection measures the influence that the geometry predicts; the checks of a model detect a broken one."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import randomise
from wenet_fusion_runtime.model.acoustic_model import AcousticModel

from wenet_fusion.data.augmentation.waveforms import Augmentation
from wenet_fusion.evaluation import inspection, streaming_laws
from wenet_fusion.evaluation.data_check import check_data
from wenet_fusion.evaluation.inspection import Influence, describe, draw_influence, influence
from wenet_fusion.evaluation.streaming_laws import BOUND, check_model
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.model.encoder import Encoder
from wenet_fusion.model.operators import operators
from wenet_fusion.trained_model import TrainedModel, acoustic_model

FRAMES = 24


def predicted(trained: TrainedModel, chunking: Chunking) -> np.ndarray:
    """Return reaches[i, t] by the geometry: subsampling and front-end look one frame back; layers add their context."""
    config = trained.config.model.encoder
    output, source = np.mgrid[:FRAMES, :FRAMES]
    chunk = (output // chunking.size, source // chunking.size)
    attention = (chunk[1] <= chunk[0]) & (chunk[1] >= chunk[0] - chunking.left)
    convolution = (source <= output) & (source >= output - config.conv_kernel + 1)
    sees = (source <= output) & (source >= output - 1)
    for _ in range(config.layers):
        sees = (attention | np.eye(FRAMES, dtype=bool)) @ sees
        sees = convolution @ sees
    return sees.T


@pytest.mark.parametrize("chunking", [Chunking(4, 1), Chunking(3, 0), Chunking(8, 2), FULL_CONTEXT], ids=str)
def test_influence_is_what_the_geometry_predicts(trained: TrainedModel, chunking: Chunking) -> None:
    measured, expected = influence(acoustic_model(trained), chunking, FRAMES), predicted(trained, chunking)
    assert not (measured.reaches_TT & ~expected).any(), "an output depends on a frame that the geometry hides"
    assert measured.reaches_TT.sum() > 0.8 * expected.sum(), "influence fades at the far edge only"
    outputs, inputs = np.nonzero(expected.T)
    assert measured.context()[1] == (inputs - outputs).max() == min(chunking.size, FRAMES) - 1


@pytest.mark.parametrize("rows", [1, 5, 24])
def test_influence_in_groups_is_the_same(trained: TrainedModel, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    class CountsRows(AcousticModel):
        most = 0

        def step(self, samples: np.ndarray, *arguments: Any) -> tuple[Any, Any]:
            self.most = max(self.most, len(samples))
            return super().step(samples, *arguments)

    honest, chunking = acoustic_model(trained), Chunking(4, 1)
    whole = influence(honest, chunking, FRAMES)
    monkeypatch.setattr(inspection, "GROUP_ATTENTION", rows * FRAMES**2)
    model = CountsRows(honest.backend, honest.meta)
    # At the far edge influence fades to the threshold, and a batch of another size may round to the other side of it.
    assert (influence(model, chunking, FRAMES).reaches_TT != whole.reaches_TT).mean() < 0.01
    assert model.most == rows + 1


def test_frames_to_measure_must_be_some(trained: TrainedModel) -> None:
    assert influence(acoustic_model(trained), Chunking(4, 1), 1).context() == (0, 0)
    for frames in (0, -3):
        with pytest.raises(ValueError, match=f"must be at least 1, found {frames}"):
            describe(acoustic_model(trained), {}, [Chunking(4, 1)], frames)


def test_influence_detects_a_look_ahead(trained: TrainedModel) -> None:
    class Ahead(AcousticModel):
        def step(self, samples: np.ndarray, *arguments: Any) -> tuple[Any, Any]:
            return super().step(np.roll(samples, -self.meta.frame_samples, axis=1), *arguments)

    honest = acoustic_model(trained)
    measured = influence(Ahead(honest.backend, honest.meta), Chunking(4, 1), FRAMES)
    assert (measured.reaches_TT & ~predicted(trained, Chunking(4, 1))).any()


def test_context_by_hand() -> None:
    reaches = np.eye(5, dtype=bool)
    reaches[0, 3] = reaches[4, 3] = True  # output 3 depends on input 0, three frames back, and input 4, one ahead
    assert Influence(Chunking(2, 1), reaches).context() == (3, 1)


def test_description(trained: TrainedModel) -> None:
    counts = operators(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())).inlined_graph)
    text = describe(acoustic_model(trained), counts, [Chunking(8, 2), FULL_CONTEXT], FRAMES)
    assert "sample rate 8000 Hz, encoder frame 40 ms, 13 tokens, precision float32" in text
    assert "operators in the step: 2, normalisation: none, sigmoid/SiLU/GLU/tanh: {'aten::tanh': 1}" in text
    line = next(line for line in text.splitlines() if line.strip().startswith("8/2"))
    assert "320 ms, 160 ms" in line and line.endswith("280 ms")
    assert next(line for line in text.splitlines() if line.strip().startswith("full")).count("whole utterance") == 1


def test_picture(trained: TrainedModel, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, an optional extra")
    measured = [influence(acoustic_model(trained), chunking, 8) for chunking in (Chunking(4, 1), FULL_CONTEXT)]
    draw_influence(measured, 0.04, tmp_path / "influence.png")
    assert (tmp_path / "influence.png").read_bytes().startswith(b"\x89PNG")


# --- wenet-fusion check


def test_checks_hold_on_noise_and_on_speech(trained: TrainedModel) -> None:
    before = copy.deepcopy(trained.model.state_dict())
    for samples in (None, 0.1 * np.random.default_rng(1).standard_normal(20000).astype(np.float32)):
        found = check_model(trained, samples)
        assert len(found) == 3 * 2 and all(check.holds for check in found), found
        assert {check.chunking for check in found} == {"4/4", "8/2"}
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.model.state_dict().items())


class ForgetfulEncoder(Encoder):
    def init_state(self, batch: int, cache_frames: int) -> Any:
        return super().init_state(batch, max(0, cache_frames - 1))


class LoudEncoder(Encoder):
    def forward(self, x: Any, lengths: Any, chunking: Any, state: Any) -> Any:
        return super().forward(x + x.mean(0), lengths, chunking, state)


@pytest.mark.parametrize("law, broken", [("split", ForgetfulEncoder), ("batch", LoudEncoder)])
def test_checks_detect_a_broken_model(law: str, broken: type[Encoder], trained: TrainedModel) -> None:
    model = copy.deepcopy(trained.model)
    model.encoder.__class__ = broken
    found = check_model(dataclasses.replace(trained, model=model), None)
    assert {check.law.partition(" ")[0].strip(":") for check in found if not check.holds} == {law}


def test_checks_detect_a_wrong_fusion(trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    fuse: Callable[..., Any] = streaming_laws.fuse_norms
    monkeypatch.setattr(streaming_laws, "fuse_norms", lambda model: fuse(randomise(model, seed=1)))
    assert {check.law.partition(":")[0] for check in check_model(trained) if check.difference > 1e6 * BOUND} == {
        "fusion"
    }


def test_check_data_counts_and_names(trained: TrainedModel, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.wav", np.random.default_rng(0).standard_normal(8000) * 0.1, 8000)
    lines = [("good", "one.wav", "one two"), ("strange", "one.wav", "eleven"), ("hasty", "one.wav", 40 * "one ")]
    (tmp_path / "data.list").write_text(
        "".join(json.dumps({"key": key, "wav": wav, "txt": text, "duration": 1.0}) + "\n" for key, wav, text in lines)
    )
    report = check_data(trained.config, tmp_path / "data.list")
    assert (report.utterances, report.hours) == (1, pytest.approx(1 / 3600, rel=0.3))
    assert [skip.key for skip in report.skipped] == ["strange", "hasty"]


def test_check_data_judges_as_training_does(trained: TrainedModel, tmp_path: Path) -> None:
    """An utterance can be too short at the highest speed factor only."""
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).standard_normal(8000) * 0.1, 8000)
    line = {"key": "a", "wav": "a.wav", "txt": " ".join(["one", "two"] * 13)}  # 26 tokens; 25 frames with right padding
    (tmp_path / "data.list").write_text(json.dumps(line) + "\n" + json.dumps({**line, "key": "b", "txt": ""}) + "\n")
    assert check_data(trained.config, tmp_path / "data.list").skipped == []
    data = dataclasses.replace(trained.config.data, augmentation=Augmentation(speed_factors=(1.0, 1.5)))
    config = dataclasses.replace(trained.config, data=data)
    (skip,) = check_data(config, tmp_path / "data.list").skipped
    assert skip.key == "a" and "at the highest speed factor 1.5" in skip.reason
    (tmp_path / "data.list").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match="there are no utterances to use\n  .*data.list:1: a: .*highest speed factor"):
        check_data(config, tmp_path / "data.list")


def test_audio_of_one_chunk_is_refused(trained: TrainedModel) -> None:
    with pytest.raises(ValueError, match="2560 samples of audio fit into one chunk of 2560, .* give longer audio"):
        check_model(trained, np.zeros(2560, dtype=np.float32))
