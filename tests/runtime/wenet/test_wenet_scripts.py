"""WeNet's TorchScript exports: the scores of the C++ program, any cut, no lost word, streams of any length."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.model.wenet_runtime import TorchAsrModel
from support.wenet.fake_wenet import RATE, SHIFT, FakeWenet, Shape, random_shape, speak
from support.wenet.wenet_exports import save_script, write_recipe, write_units
from support.wenet.wenet_reference import assert_equal, noise, own_log_probs, padded, reference_log_probs
from wenet_fusion_runtime import DecodingOptions, Engine, EngineOptions, Recognizer, load_model, transcribe_offline
from wenet_fusion_runtime.model.conformance import ModelFault
from wenet_fusion_runtime.model.wenet import row_backend
from wenet_fusion_runtime.model.wenet.kaldi_features import FeatureSettings, KaldiFeatures
from wenet_fusion_runtime.model.wenet.scripted_graphs import ScriptedGraphs
from wenet_fusion_runtime.model.wenet.wenet_files import SCRIPTED
from wenet_fusion_runtime.search.modes import GREEDY, MODES, RESCORING
from wenet_fusion_runtime.stream.endpoints import EndpointRules
from wenet_fusion_runtime.stream.offline import offline_step

from wenet_fusion.trained_model import TrainedModel

pytestmark = pytest.mark.usefixtures("float32")
SEEDS = range(4)
NO_ENDPOINTS = EndpointRules(rule3_seconds=1e6)


@pytest.fixture(scope="module", params=SEEDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a random geometry."""
    shape = random_shape(np.random.default_rng(request.param))
    return save_script(tmp_path_factory.mktemp("script") / str(request.param), FakeWenet(shape, seed=request.param))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that reads letters by their loudness and has 100 positions."""
    return save_script(tmp_path_factory.mktemp("reader"), FakeWenet(Shape(sharpness=4.0, positions=100)))


def test_features_are_kaldis() -> None:
    kaldi = pytest.importorskip("torchaudio").compliance.kaldi
    rng = np.random.default_rng(0)
    for rate, bins, window, shift in ((16000, 80, 25.0, 10.0), (8000, 40, 25.0, 10.0), (16000, 23, 32.0, 12.5)):
        settings_, samples = FeatureSettings(rate, bins, window, shift), noise(rng) / 2
        samples = np.pad(samples, (0, 4000))
        expected = kaldi.fbank(
            torch.from_numpy(samples)[None] * 32768,
            num_mel_bins=bins,
            frame_length=window,
            frame_shift=shift,
            dither=0.0,
            energy_floor=0.0,
            sample_frequency=rate,
        )
        found = KaldiFeatures(settings_)(samples)
        assert found.shape == tuple(expected.shape)
        assert np.abs(np.exp(found) - np.exp(expected.numpy())).max() < 1e-3 * np.exp(found).max()
        assert len(KaldiFeatures(settings_)(samples[: settings_.samples(7)])) == 7


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_scores_are_those_of_the_reference(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, samples = load_model(folder), noise(rng)
    chunk, left = int(rng.integers(2, 20)), int(rng.integers(0, 6))
    driver = TorchAsrModel(folder / "final.zip", chunk, left)
    assert_equal(own_log_probs(model, samples, chunk, left), reference_log_probs(model, driver, samples))


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_cut_of_the_audio_gives_the_same_results(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    recognizer, samples = Recognizer(load_model(folder), DecodingOptions(beam_size=4)), noise(rng)
    chunk, left = int(rng.integers(1, 20)), int(rng.integers(0, 6))
    whole, pieces = recognizer.create_stream(chunk, left), recognizer.create_stream(chunk, left)
    expected = [*whole.accept_waveform(samples), *whole.finish()]
    found = []
    for piece in np.split(samples, np.sort(rng.integers(0, len(samples) + 1, 12))):
        found += pieces.accept_waveform(piece)
    assert [*found, *pieces.finish()] == expected
    frames = -(-(len(samples) + recognizer.model.meta.right_padding_samples) // recognizer.model.meta.frame_samples)
    assert expected[-1].end_seconds == pytest.approx(frames * recognizer.model.meta.frame_seconds)


def test_the_blocks_of_a_stream_score_as_the_whole(folder: Path) -> None:
    rng = np.random.default_rng(6)
    model, samples = load_model(folder), noise(rng)
    stream, found = Recognizer(model).create_stream(5, 3), []
    for piece in (*np.split(samples, np.sort(rng.integers(0, len(samples) + 1, 9))), None):
        if piece is None:
            stream.end_input()
        else:
            stream.push(piece)
        while (block := stream.ready_block()) is not None:
            scores, state = model.step(block.samples[None], [block.length], 5, 3, stream.state)
            found.append(scores.log_probs[0])
            stream.advance(*scores.row(0), state)
    expected = offline_step(model, [samples], 5, 3).log_probs[0]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4)


def test_rescoring_gives_the_scores_of_the_reference(folder: Path) -> None:
    samples = noise(np.random.default_rng(3), 40000)
    model = load_model(folder)
    stream = Recognizer(model, DecodingOptions(mode=RESCORING, beam_size=5, endpoint=NO_ENDPOINTS)).create_stream(6, 3)
    stream.accept_waveform(samples)
    hypotheses = stream.finish()[-1].hypotheses
    driver = TorchAsrModel(folder / "final.zip", 6, 3)
    reference_log_probs(model, driver, samples)
    weight = 0.4 if model.meta.reverse_decoder else 0.0  # as train.yaml has it
    assert model.meta.reverse_weight == weight
    expected = driver.attention_rescoring([hypothesis.ids for hypothesis in stream.result.hypotheses], weight)
    assert stream.result.hypotheses[0].attention_score == pytest.approx(expected[0], rel=1e-4)
    assert len(hypotheses) == 1 or len({hypothesis.ids for hypothesis in hypotheses}) > 1


def test_hypotheses_without_tokens_are_rescored(folder: Path) -> None:
    model = load_model(folder)
    encoder_out = np.ones((1, 3, model.backend.graphs.module.width), np.float32)
    empty, mixed = model.rescore([encoder_out], [()]), model.rescore([encoder_out], [(), (3, 4)])
    np.testing.assert_allclose(empty[0], mixed[0], rtol=1e-5)
    assert (empty[0, 0] < 0) and bool(empty[0, 1]) == model.meta.reverse_decoder


@pytest.mark.parametrize("mode", MODES)
def test_the_last_word_is_kept_wherever_the_audio_ends(reader: Path, mode: str) -> None:
    recognizer = Recognizer(load_model(reader), DecodingOptions(mode=mode))
    samples = speak("abcd")
    begin = len(samples) - 6 * recognizer.model.meta.frame_samples  # the last letter: 3 frames, 3 of silence
    for end in np.random.default_rng(0).integers(begin + 440, len(samples), 12):
        stream = recognizer.create_stream(int(end) % 7 + 2, 2)
        stream.accept_waveform(samples[:end])
        stream.finish()
        assert stream.text.startswith("abcd"), end  # a part of a window may give a softer letter


@pytest.mark.parametrize("rules, ends", [(EndpointRules(None, 0.3), True), (NO_ENDPOINTS, False)])
def test_a_stream_outlives_the_positions(
    reader: Path, monkeypatch: pytest.MonkeyPatch, rules: EndpointRules, ends: bool
) -> None:
    """The fake model asserts its positions; without segments the backend itself takes a fresh state."""
    monkeypatch.setattr(row_backend, "MOST_FRAMES", 100)
    recognizer = Recognizer(load_model(reader), DecodingOptions(mode=GREEDY, endpoint=rules))
    stream, fresh = recognizer.create_stream(8, 2), []
    graphs = recognizer.model.backend.graphs
    original = graphs.fresh
    monkeypatch.setattr(graphs, "fresh", lambda *chunking: fresh.append(stream.waiting_seconds) or original(*chunking))
    closed = []
    for _ in range(12):
        closed += stream.accept_waveform(speak("abcd  ", gap=0.2))
        (state,) = stream.state
        assert state.offset <= 100 and state.att_cache.shape[2] <= 16
    closed += stream.finish()
    assert stream.text == "abcd" * 12
    segments = [result for result in closed[:-1] if result.text]
    assert len(segments) == (12 if ends else 0)
    assert len(fresh) == len(closed) - 1 if ends else len(fresh) >= 3


def test_the_encoder_does_not_restart_within_speech(reader: Path) -> None:
    """A segment that closes for its length, in the middle of a letter, does not reset the encoder."""
    options = DecodingOptions(mode=GREEDY, endpoint=EndpointRules(None, None, 0.4, 0.4, 0.0))
    stream = Recognizer(load_model(reader), options).create_stream(2, 4)
    closed = stream.accept_waveform(np.tile(speak("d", seconds=2.0, gap=0.0), 1)[: 2 * RATE])
    assert len(closed) >= 3 and stream.state[0].offset == 48  # of 50 frames, the last two wait for their look-ahead


def test_our_own_export_through_wenets_methods(exported: Path, trained: TrainedModel, tmp_path: Path) -> None:
    """Without meta.json our file counts as WeNet's. Its right context is 3, so windows do not overlap."""
    torch.jit.load(str(exported)).save(str(tmp_path / "final.zip"))
    units = write_units(tmp_path, trained.tokenizer.vocabulary.tokens)
    write_recipe(tmp_path, dataset_conf={"fbank_conf": {"num_mel_bins": 40}, "resample_conf": {"resample_rate": 8000}})
    model, samples = load_model(tmp_path / "final.zip", units=units), noise(np.random.default_rng(8), 40000)
    assert (model.meta.kind, model.meta.sample_rate, model.meta.lookahead_samples) == (SCRIPTED, 8000, 120)
    expected = reference_log_probs(model, TorchAsrModel(tmp_path / "final.zip", 8, 2), samples)
    assert_equal(own_log_probs(model, samples, 8, 2), expected)


def test_a_chunk_longer_than_the_positions_is_refused(reader: Path) -> None:
    with pytest.raises(ValueError, match="chunk 5000 must be less than 5000 frames: WeNet's positions end there"):
        Recognizer(load_model(reader)).create_stream(5000, 0)


@settings(max_examples=12, deadline=None)
@given(chunk=st.integers(1, 99), seed=st.integers(0, 10**6))
@example(chunk=10, seed=0)
@example(chunk=25, seed=0)
def test_no_chunk_meets_the_end_of_the_positions(reader: Path, chunk: int, seed: int) -> None:
    """The fake model has 100 positions and, like WeNet's older exports, does not accept the last one."""
    rng, model = np.random.default_rng(seed), load_model(reader)
    samples = noise(rng)[: int(rng.integers(1, 300)) * model.meta.frame_samples]
    samples = np.resize(samples, int(rng.integers(100, 300)) * model.meta.frame_samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_backend, "MOST_FRAMES", 100)
        assert len(own_log_probs(model, samples, chunk, int(rng.integers(0, 5)))) >= 100


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_samples_behind_the_end_of_a_row_are_not_read(folder: Path, seed: int) -> None:
    """Rows may end anywhere in a block of several chunks, also at the end of a chunk, at different or equal times."""
    rng, model, chunk, left = np.random.default_rng(seed), load_model(folder), 5, 2
    frame, ahead = model.meta.frame_samples, model.meta.lookahead_samples
    samples = rng.uniform(-0.3, 0.3, (3, 4 * chunk * frame + ahead)).astype(np.float32)
    ends = [0, int(rng.integers(1, 4)) * chunk * frame, int(rng.integers(0, 3 * chunk * frame))]
    for rows in ([0, 1, 2], [0, 2], [1], [0]):
        lengths = [ends[row] for row in rows]
        found, _ = model.step(samples[rows], lengths, chunk, left, model.init_state(len(rows), chunk, left))
        assert found.lengths.tolist() == [-(-length // frame) for length in lengths]
        for index, (row, length) in enumerate(zip(rows, lengths)):
            if length == 0:
                continue
            frames = -(-length // frame)
            alone = np.pad(samples[row, :length], (0, frames * frame + ahead - length))[None]
            expected, _ = model.step(alone, [length], chunk, left, model.init_state(1, chunk, left))
            np.testing.assert_allclose(found.row(index)[1], expected.row(0)[1], atol=1e-5)


def test_whole_utterances_are_decoded_as_streams(folder: Path) -> None:
    model, samples = load_model(folder), noise(np.random.default_rng(5), 90000)
    options = DecodingOptions(mode=GREEDY, endpoint=EndpointRules(0.4, 0.2, 1.0, 0.08, 0.4))
    stream = Recognizer(model, options).create_stream(7, 2)
    expected = [*stream.accept_waveform(samples), *stream.finish()]
    assert transcribe_offline(model, samples, 7, 2, options) == expected


def test_an_engine_steps_its_streams_alone(reader: Path) -> None:
    recognizer, texts = Recognizer(load_model(reader), DecodingOptions(mode=GREEDY)), ("abcd", "dd cab", "b")
    with Engine(recognizer.model, EngineOptions(max_batch=8)) as engine:
        updates: list[list] = [[] for _ in texts]
        sessions = [engine.open(recognizer.create_stream(), found.append) for found in updates]
        for session, text in zip(sessions, texts):
            session.push(speak(text))
            session.end()
        assert engine.drain(30.0) == 0
        batches = engine.statistics.batches
    assert ["".join(result.text for update in found for result in update.finals) for found in updates] == [
        text.replace(" ", "") for text in texts
    ]
    assert batches.count == batches.counts[0] > 0


def test_latency_and_geometry(reader: Path) -> None:
    meta = load_model(reader).meta
    assert (meta.sample_rate, meta.frame_samples, meta.frame_seconds) == (RATE, 4 * SHIFT, 0.04)
    assert meta.lookahead_samples == 720  # samples of 67 windows minus 64 shifts
    assert (meta.default_chunk, meta.default_left, meta.left(8), meta.left(100)) == (16, 32, 64, 6)
    for chunking in ((1, 0), (16, 4), (1000, 2)):
        meta.check_chunk(*chunking)
    assert len(padded(load_model(reader), np.zeros(0, np.float32))) == 8 * 640 + 720


def test_errors_of_a_script_are_named(tmp_path: Path) -> None:
    """All of torch's errors here begin with the same sentence; the last line has the cause."""
    model, samples = load_model(save_script(tmp_path, FakeWenet(Shape(positions=20)))), speak("abcd")
    with pytest.raises(
        ModelFault, match="does not run as WeNet's runtimes run it .RuntimeError: AssertionError.*; exp"
    ):
        own_log_probs(model, samples, 8, 2)


def test_an_encoder_that_drops_frames_is_refused_before_any_audio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Efficient Conformers drop frames, and their subsampling_rate does not show it."""
    encode = ScriptedGraphs.encode

    def halved(*arguments: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        encoder_out, log_probs, state = encode(*arguments)
        return encoder_out[:, ::2], log_probs[:, ::2], state

    folder = save_script(tmp_path, FakeWenet(Shape()))
    monkeypatch.setattr(ScriptedGraphs, "encode", halved)
    with pytest.raises(ModelFault, match="the number of encoder frames of 11 feature frames is 1, expected 2"):
        load_model(folder)
