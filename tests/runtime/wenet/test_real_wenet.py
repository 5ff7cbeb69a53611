"""WeNet's own exports give the tokens and scores of WeNet's own decoding. Needs the package wenet."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from parts.wenet_models import export_graphs, export_script
from support.model.wenet_runtime import OnnxAsrModel, TorchAsrModel
from support.recipes.scripts import run
from support.wenet.real_wenet import (
    RATE,
    graph_frames,
    load_experiment,
    search,
    stream_frames,
    wenet_features,
    write_experiment,
)
from support.wenet.wenet_recipe import Recipe
from support.wenet.wenet_reference import assert_equal, own_log_probs, padded, reference_log_probs
from wenet_fusion_runtime import AcousticModel, DecodingOptions, Hypothesis, Recognizer, load_model
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.search.modes import GREEDY, MODES
from wenet_fusion_runtime.stream.endpoints import EndpointRules

pytestmark = pytest.mark.usefixtures("float32")
NO_ENDPOINTS = EndpointRules(rule3_seconds=1e6)
SIZE = 18  # few enough tokens that both searches consider all of them
RECIPES = (
    Recipe(vocabulary=SIZE),
    Recipe(kernel=15, norm="batch_norm", input_layer="conv2d6", decoder="transformer", vocabulary=SIZE, cmvn=False),
    Recipe(encoder="transformer", input_layer="conv2d8", vocabulary=SIZE, reserved=False),
)


def voice(seed: int, seconds: float = 4.0) -> np.ndarray:
    """Return samples of changing loudness and spectrum: a new random sum of tones and noise every 0.1 s."""
    rng, step = np.random.default_rng(seed), RATE // 10
    pieces = []
    for _ in range(int(seconds * 10)):
        tones = np.sin(np.outer(np.arange(step), rng.uniform(0.05, 2.5, 4))) @ rng.uniform(0, 0.2, 4)
        pieces.append((tones + rng.normal(0, 0.3, step)) * 10.0 ** rng.uniform(-2.5, -0.3))
    return np.concatenate(pieces).clip(-1, 1).astype(np.float32)


@pytest.fixture(scope="module", params=[0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2))])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with its scripts, and a recording."""
    path = tmp_path_factory.mktemp("wenet") / "exp"
    write_experiment(path, RECIPES[request.param], voice(request.param), seed=request.param)
    export_script(path)
    soundfile.write(path / "talk.wav", voice(9), RATE)
    return path


def decode(model: AcousticModel, samples: np.ndarray, mode: str, chunk: int, left: int) -> Hypothesis:
    """Return the best hypothesis of a recording as one segment, without pruning, as in WeNet's searches."""
    unpruned = {} if mode == GREEDY else {"beam_size": SIZE, "token_threshold": np.inf}
    options = DecodingOptions(mode=mode, endpoint=NO_ENDPOINTS, **unpruned)
    stream = Recognizer(model, options).create_stream(chunk, left)
    stream.accept_waveform(samples)
    stream.finish()
    return stream.result.hypotheses[0]


def assert_decodes_as(model: AcousticModel, wenet: Any, samples: np.ndarray, frames: torch.Tensor, chunking) -> None:
    """Compare the scores of all frames and the results of all modes."""
    assert_equal(own_log_probs(model, samples, *chunking), wenet.ctc.log_softmax(frames)[0].numpy(), 1e-3)
    expected = search(wenet, frames, SIZE, model.meta.ctc_weight, model.meta.reverse_weight)
    for mode in MODES:
        found, known = decode(model, samples, mode, *chunking), expected[mode]
        assert list(found.ids) == list(known.tokens) and len(set(found.ids)) > 4, mode
        if mode != GREEDY:
            assert found.score == pytest.approx(float(known.score), abs=0.01), mode


@pytest.mark.parametrize("chunking", [(16, 4), (5, 3), (7, 0)])
def test_scripts_decode_as_wenet(folder: Path, chunking: tuple[int, int]) -> None:
    model, wenet, samples = load_model(folder), load_experiment(folder), voice(5)
    features = torch.from_numpy(model.backend.features(padded(model, samples)))
    assert model.meta.reverse_decoder == ("bitransformer" in (folder / "train.yaml").read_text())
    assert_decodes_as(model, wenet, samples, stream_frames(wenet, features, *chunking), chunking)


def test_quantised_scripts_score_as_wenets_program(folder: Path) -> None:
    """Inputs are quantised chunk by chunk, so the scores equal those of WeNet's C++ program, not of recognize.py."""
    model, samples = load_model(folder / "final_quant.zip"), voice(6)
    assert model.meta.precision == "int8-dynamic"
    driver = TorchAsrModel(folder / "final_quant.zip", 8, 2)
    assert_equal(own_log_probs(model, samples, 8, 2), reference_log_probs(model, driver, samples))


@pytest.mark.parametrize("name", ["final.zip", "final_quant.zip"])
def test_any_cut_of_the_audio_gives_the_same_results(folder: Path, name: str) -> None:
    rng, samples, recognizer = np.random.default_rng(2), voice(7), Recognizer(load_model(folder / name))
    whole, pieces = recognizer.create_stream(6, 2), recognizer.create_stream(6, 2)
    expected, found = [*whole.accept_waveform(samples), *whole.finish()], []
    for piece in np.split(samples, np.sort(rng.integers(0, len(samples) + 1, 12))):
        found += pieces.accept_waveform(piece)
    assert [*found, *pieces.finish()] == expected and whole.text


def test_features_are_those_of_wenets_recipes(folder: Path) -> None:
    samples = voice(8)
    expected, found = np.exp(wenet_features(samples).numpy()), np.exp(load_model(folder).backend.features(samples))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4 * expected.max()


def test_a_stream_outlives_the_positions(folder: Path) -> None:
    """WeNet's encoder asserts its 5,000 positions: 200 s at 40 ms."""
    model = load_model(folder)
    repeats = 1 + int(5200 * model.meta.frame_seconds / 2.0)
    stream = Recognizer(model, DecodingOptions(mode=GREEDY, endpoint=NO_ENDPOINTS)).create_stream(100, 1)
    stream.accept_waveform(np.tile(voice(3, 2.0), repeats))
    (state,) = stream.state
    assert 0 < state.offset < 1000
    stream.finish()
    assert len(stream.result.hypotheses[0].ids) > 2 * repeats


def test_the_command_runs_every_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, modes in (("final.zip", MODES), ("final_quant.zip", MODES[-1:])):
        assert main(["info", str(folder / name)]) == 0
        assert "WeNet TorchScript" in capsys.readouterr().out
        for mode in modes:
            assert main(["transcribe", str(folder / name), str(folder / "talk.wav"), "--mode", mode]) == 0
            assert len(capsys.readouterr().out.strip()) > 4


def test_folders_of_training_are_explained(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train.yaml", "units.txt", "final.pt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    command = f"python wenet/bin/export_jit.py --config {tmp_path}/train.yaml --checkpoint {tmp_path}/final.pt"
    with pytest.raises(IsADirectoryError, match=f"holds WeNet's checkpoints, but no exported model; .*{command}"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match=f"final.pt: is a checkpoint of WeNet; export it, .*{command}"):
        load_model(tmp_path / "final.pt")


def test_its_configuration_is_translated(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "ours.yaml"
    assert run("check", "config", folder / "train.yaml", "--output", output, "--utterances", "400") == 0
    assert "0 unknown" in capsys.readouterr().out and output.exists()


@pytest.mark.parametrize("left", [4, pytest.param(0, marks=pytest.mark.slow), pytest.param(-1, marks=pytest.mark.slow)])
def test_graphs_decode_as_wenet(left: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = voice(4)
    write_experiment(tmp_path, Recipe(vocabulary=SIZE), voice(1), seed=1)
    graphs, wenet = export_graphs(tmp_path, 16, left), load_experiment(tmp_path)
    model = load_model(graphs)
    features = torch.from_numpy(model.backend.features(padded(model, samples)))
    frames = (graph_frames if left > 0 else stream_frames)(wenet, features, 16, left)
    chunking = model.meta.default_chunk, model.meta.default_left
    assert_decodes_as(model, wenet, samples, frames, chunking)
    quantised = load_model(graphs / "encoder.quant.onnx")
    expected = reference_log_probs(quantised, OnnxAsrModel(graphs, ".quant.onnx"), samples)
    assert_equal(own_log_probs(quantised, samples, *chunking), expected)
    soundfile.write(tmp_path / "talk.wav", samples, RATE)
    for name in ("encoder.onnx", "encoder.quant.onnx"):
        assert (
            main(["info", str(graphs / name)])
            == main(["transcribe", str(graphs / name), str(tmp_path / "talk.wav")])
            == 0
        )
        assert "16/" in capsys.readouterr().out
