"""WeNet's three ONNX graphs and sherpa-onnx's graph: the scores of their own programs, and the fixed chunk."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.model.wenet_runtime import OnnxAsrModel, SherpaModel
from support.wenet.fake_wenet import FakeWenet, Shape, random_shape, speak
from support.wenet.wenet_exports import save_graphs, save_sherpa, write_recipe
from support.wenet.wenet_reference import assert_equal, noise, own_log_probs, padded, reference_log_probs
from wenet_fusion_runtime import DecodingOptions, Recognizer, load_model
from wenet_fusion_runtime.model.wenet import row_backend
from wenet_fusion_runtime.search.modes import GREEDY, RESCORING
from wenet_fusion_runtime.stream.endpoints import EndpointRules

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.trained_model import TrainedModel

pytestmark = pytest.mark.usefixtures("float32")
CHUNK = 7
READER = Shape(sharpness=4.0, positions=100)


@pytest.fixture(scope="module", params=[(0, 3), (1, -1), (2, 1), (3, 0)], ids=str)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three graphs of a random geometry."""
    seed, left = request.param
    shape = random_shape(np.random.default_rng(seed))
    return save_graphs(tmp_path_factory.mktemp("graphs"), FakeWenet(shape, seed=seed), CHUNK, left)


@pytest.fixture(scope="module")
def sherpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sherpa-onnx's file of a random geometry."""
    shape = random_shape(np.random.default_rng(7))
    return save_sherpa(tmp_path_factory.mktemp("sherpa"), FakeWenet(shape), CHUNK, 2)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_scores_are_those_of_the_reference(folder: Path, seed: int) -> None:
    model, samples = load_model(folder), noise(np.random.default_rng(seed))
    chunking = model.meta.default_chunk, model.meta.default_left
    assert chunking[0] == CHUNK
    assert_equal(
        own_log_probs(model, samples, *chunking), reference_log_probs(model, OnnxAsrModel(folder), samples), 1e-3
    )


def test_rescoring_gives_the_scores_of_the_reference(folder: Path) -> None:
    samples, model = noise(np.random.default_rng(3), 40000), load_model(folder)
    stream = Recognizer(model, DecodingOptions(mode=RESCORING, beam_size=5)).create_stream()
    stream.accept_waveform(samples)
    best = stream.finish()[-1].hypotheses[0]
    driver = OnnxAsrModel(folder)
    reference_log_probs(model, driver, samples)
    weight = 0.3 if model.meta.reverse_decoder else 0.0  # as the metadata have it
    assert model.meta.reverse_weight == pytest.approx(weight)
    assert best.attention_score == pytest.approx(driver.attention_rescoring([best.ids], weight)[0], rel=1e-3)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_one_graph_scores_as_sherpa_onnx(sherpa: Path, seed: int) -> None:
    """sherpa-onnx decodes whole windows only; its programs fill the last window with silence, and so does this test."""
    model, samples = load_model(sherpa), noise(np.random.default_rng(seed))
    found = own_log_probs(model, samples, CHUNK, 2)
    audio = np.pad(padded(model, samples), (0, CHUNK * model.meta.frame_samples))
    expected = SherpaModel(sherpa, CHUNK, 2).decode(model.backend.features(audio))
    assert len(expected) >= len(found)
    assert np.abs(found - expected[: len(found)]).max() < 1e-3


@pytest.mark.parametrize("left", [2, -1])
def test_random_cuts_and_long_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """The model `reader` has 100 positions."""
    monkeypatch.setattr(row_backend, "MOST_FRAMES", 100)
    options, rng = DecodingOptions(endpoint=EndpointRules(None, 0.3)), np.random.default_rng(0)
    model = FakeWenet(READER)
    for path in (save_graphs(tmp_path / "graphs", model, 8, left), save_sherpa(tmp_path / "sherpa", model, 8, 2)):
        recognizer = Recognizer(load_model(path), options)
        samples = np.concatenate([speak("abcd  ", gap=0.2)] * 8)
        whole, pieces = recognizer.create_stream(), recognizer.create_stream()
        expected = [*whole.accept_waveform(samples), *whole.finish()]
        found = []
        for piece in np.split(samples, np.sort(rng.integers(0, len(samples) + 1, 40))):
            found += pieces.accept_waveform(piece)
            assert pieces.state[0].offset <= 100
        assert [*found, *pieces.finish()] == expected
        assert whole.text == "abcd" * 8


def test_the_end_of_a_long_stream_passes_the_last_position(tmp_path: Path) -> None:
    """sherpa-onnx's graph runs a whole chunk even for the last four frames, beyond its table of 5000 positions."""
    model = load_model(save_sherpa(tmp_path, FakeWenet(Shape(layers=1, width=2, heads=1)), 16, 4))
    size = 4932 * model.meta.frame_samples
    samples = np.zeros((1, size + model.meta.lookahead_samples), np.float32)
    scores, _ = model.step(samples, [size], 16, 4, model.init_state(1, 16, 4))
    assert scores.lengths.tolist() == [4932]


@pytest.mark.parametrize("chunk, left", [(16, 311), (16, 400), (5000, -1)])
def test_graphs_without_room_for_a_stream_are_refused(tmp_path: Path, chunk: int, left: int) -> None:
    folder = save_graphs(tmp_path / "graphs", FakeWenet(Shape()), 8, 2 if left > 0 else -1)
    paths = {folder / "encoder.onnx": folder}
    if left > 0:
        path = save_sherpa(tmp_path / "one", FakeWenet(Shape()), 8, 2)
        paths[path] = path
    for file, model in paths.items():
        graph = onnx.load(str(file))
        known = {item.key: item.value for item in graph.metadata_props}
        del graph.metadata_props[:]
        onnx.helper.set_model_props(graph, known | {"chunk_size": str(chunk), "left_chunks": str(left)})
        onnx.save(graph, str(file))
        message = f"{file.name}: was exported for chunks of {chunk} frames with {left} to the left: of the 5000 posi"
        with pytest.raises(ValueError, match=message):
            load_model(model)


def test_other_chunks_are_refused_by_name(folder: Path, sherpa: Path) -> None:
    for path in (folder, sherpa):
        recognizer = Recognizer(load_model(path), DecodingOptions(mode=GREEDY))
        left = recognizer.model.meta.default_left
        for allow in (False, True):
            with pytest.raises(ValueError, match=f"exported for chunks of {CHUNK} frames with {left} to the left; "):
                recognizer.create_stream(16, allow_untrained=allow)
        recognizer.create_stream(CHUNK, left)


def test_the_quantised_graphs_are_chosen_by_name(tmp_path: Path) -> None:
    folder = save_graphs(tmp_path, FakeWenet(Shape()), 8, 2)
    for name in ("encoder", "ctc", "decoder"):
        (folder / f"{name}.quant.onnx").write_bytes((folder / f"{name}.onnx").read_bytes())
    assert load_model(folder).meta.precision == load_model(folder / "encoder.onnx").meta.precision == "float32"
    assert load_model(folder / "encoder.quant.onnx").meta.precision == "int8-dynamic"
    for name in ("encoder", "ctc", "decoder"):
        (folder / f"{name}.onnx").unlink()
    assert load_model(folder).meta.precision == "int8-dynamic"


def test_our_own_exports_in_their_formats(trained: TrainedModel, tmp_path: Path) -> None:
    """Our exports have a right context of 3, so windows do not overlap, and state their sample rate."""
    export_model(trained, tmp_path / "wenet", ExportOptions("wenet-onnx", "float32", Chunking(8, 2)))
    export_model(trained, tmp_path / "sherpa" / "model.onnx", ExportOptions("sherpa-onnx", "float32", Chunking(8, 2)))
    samples = noise(np.random.default_rng(1), 30000)
    for path in (tmp_path / "wenet", tmp_path / "sherpa" / "model.onnx"):
        model = load_model(path)
        assert model.meta.sample_rate == 8000
        found = own_log_probs(model, samples, 8, 2).argmax(1)
        driver = OnnxAsrModel(path) if path.is_dir() else SherpaModel(path, 8, 2)
        audio = padded(model, samples) if path.is_dir() else np.pad(padded(model, samples), (0, 8 * 320))
        expected = driver.decode(model.backend.features(audio)).argmax(1)
        frames = min(len(found), len(expected))
        assert frames >= len(found) - 1
        assert (found[:frames] == expected[:frames]).mean() > 0.95  # nearly equal tokens may change places
        write_recipe(path if path.is_dir() else path.parent, dataset_conf={"resample_conf": {"resample_rate": 16000}})
        with pytest.raises(ValueError, match="reads 8000 Hz, but .*train.yaml has resample_rate 16000: they belong"):
            load_model(path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"head": None}, "its metadata have no head: export the model again"),
        ({"head": "four"}, "head in its metadata must be a number of at least 1, found 'four'"),
        ({"chunk_size": "-1"}, "was exported for whole recordings .chunk_size -1., not for streams; export the check"),
        ({"left_chunks": "-1"}, "takes a mask, which needs a positive left_chunks, but its metadata say -1"),
        ({"is_bidirectional_decoder": "maybe"}, "is_bidirectional_decoder in its metadata must be 0 or 1"),
        ({"right_context": "1"}, "its right context of 1 feature frames is shorter than its subsampling by 4 allows"),
        ({"right_context": "11"}, "does not run as WeNet's runtimes run it .the number of encoder frames of 16 "),
        ({"output_size": "6"}, "does not run as WeNet's runtimes run it"),
        ({"eos_symbol": "40"}, "has 7 tokens, but the model ends a sentence with token 40"),
    ],
)
def test_wrong_metadata_are_reported(tmp_path: Path, changes: dict, message: str) -> None:
    folder = save_graphs(tmp_path, FakeWenet(Shape()), 8, 2)
    graph = onnx.load(str(folder / "encoder.onnx"))
    known = {item.key: item.value for item in graph.metadata_props} | changes
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {key: value for key, value in known.items() if value is not None})
    onnx.save(graph, str(folder / "encoder.onnx"))
    with pytest.raises(ValueError, match=message):
        load_model(folder)
