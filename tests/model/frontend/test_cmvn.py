"""Global CMVN: the tool sums the features of the model's own front-end."""

import json

import numpy as np
import pytest
import soundfile
import torch
from support.data.shards import served, write_shards
from support.model.tones import RATE, speak, write_corpus
from support.recipes.scripts import load_script

from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.frontend.cmvn import GlobalCmvn

compute_cmvn_stats = load_script("compute_cmvn_stats")


@pytest.fixture
def corpus(tmp_path):
    """Ten recordings, one of them with a second of digital silence at its end."""
    data_list = write_corpus(tmp_path / "data", 10, seed=0)
    path = data_list.with_name("u004.wav")
    samples, _ = soundfile.read(path)
    soundfile.write(path, np.concatenate([samples, np.zeros(RATE)]), RATE, subtype="PCM_16")
    return data_list


@pytest.fixture
def compute(tone_run, tmp_path):
    """Return a function that runs the tool on a list and returns the content of its file."""

    def run(data_list, *options):
        output = tmp_path / "deep/global_cmvn"
        arguments = ["--config", tone_run.config, "--data", data_list, "--output", output, *options]
        assert compute_cmvn_stats.main([str(argument) for argument in arguments]) == 0
        return json.loads(output.read_text())

    return run


def features(recipe, data_list):
    """Return the model's features (frames, mel bins) of all recordings in float64, whole frames only."""
    fbank = AsrModel(recipe.model, 6).fbank
    rows = []
    for path in sorted(data_list.parent.glob("*.wav")):
        samples, _ = soundfile.read(path, dtype="float32")
        samples = torch.from_numpy(samples[: len(samples) // 80 * 80])[None]
        rows.append(fbank(samples, fbank.init_state(1)).features_BTF[0].double())
    return torch.cat(rows)


def test_sums_are_those_of_the_models_features(tone_run, corpus, compute):
    found = compute(corpus)
    rows = features(tone_run.recipe, corpus)
    silent = rows.max(dim=1).values < -15
    assert int(silent.sum()) == pytest.approx(100, abs=3), "the second of digital silence is left out"
    audible = rows[~silent]
    assert found["frame_num"] == len(audible)
    assert found["mean_stat"] == pytest.approx(audible.sum(0).tolist(), rel=1e-5)
    assert found["var_stat"] == pytest.approx(audible.square().sum(0).tolist(), rel=1e-5)
    # Seeded bug: silence is included.
    assert found["mean_stat"] != pytest.approx(rows.sum(0).tolist(), rel=1e-3)


def test_normalised_features_have_mean_0_and_variance_1(tone_run, corpus, compute, tmp_path):
    compute(corpus)
    cmvn = GlobalCmvn(40)
    cmvn.load(tmp_path / "deep/global_cmvn")
    rows = features(tone_run.recipe, corpus)
    normalised = cmvn(rows[rows.max(dim=1).values > -15].float())
    assert normalised.mean(0).abs().max() < 1e-4
    assert (normalised.std(0, correction=0) - 1).abs().max() < 1e-3


def test_a_sample_is_even_and_no_larger_than_asked(corpus, compute, capsys):
    for count, used in ((3, 3), (4, 4), (6, 6), (9, 9), (10, 10), (99, 10)):
        compute(corpus, "--max_utterances", count)
        assert f"frames of {used} utterances, 0 skipped" in capsys.readouterr().out


def test_shards_read_in_sequence_give_the_sums_of_their_list(compute, tmp_path, capsys):
    shards = write_shards(tmp_path / "shards", (3, 1, 4))
    sums = compute(shards, "data.data_type=sequential")
    assert sums == compute(shards) and "of 8 utterances, 0 skipped" in capsys.readouterr().out
    for count, used in ((1, 1), (2, 2), (6, 6), (99, 8)):
        compute(shards, "data.data_type=sequential", "--max_utterances", count)
        assert f"of {used} utterances, 0 skipped" in capsys.readouterr().out
    with served(tmp_path / "shards") as url:
        (tmp_path / "urls.list").write_text(f"{url}/shard_{{0..2}}.tar\n")
        assert compute(tmp_path / "urls.list", "data.data_type=sequential") == sums
    (tmp_path / "shards/shard_1.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(
        ValueError, match=r"1 of 8 utterances cannot be read:\n  \S*shard_1.tar: .*damaged .*or not a tar"
    ):
        compute(shards, "data.data_type=sequential")


def test_unreadable_audio_is_counted_and_reported(corpus, compute, tmp_path, capsys):
    corpus.with_name("u001.wav").write_bytes(b"")
    compute(corpus, "data.max_skipped=0.1")
    captured = capsys.readouterr()
    assert "u001: " in captured.err and "u001.wav: is an empty file" in captured.err
    assert "of 9 utterances, 1 skipped" in captured.out
    (tmp_path / "deep/global_cmvn").unlink()
    with pytest.raises(
        ValueError, match="1 of 10 utterances cannot be read:\n  .*u001: .*empty.*\nmore than 1 % .*max_skipped"
    ):
        compute(corpus)
    for path in corpus.parent.glob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="no usable statistics over 0 frames"):
        compute(corpus, "data.max_skipped=1")
    assert list((tmp_path / "deep").iterdir()) == []


def test_nothing_but_digital_silence_is_refused(compute, tmp_path):
    (tmp_path / "s").mkdir()
    soundfile.write(tmp_path / "s/zero.wav", np.zeros(RATE), RATE, subtype="PCM_16")
    (tmp_path / "s/data.list").write_text('{"key": "a", "wav": "zero.wav", "txt": ""}\n')
    with pytest.raises(ValueError, match="no usable statistics over 0 frames"):
        compute(tmp_path / "s/data.list")


def test_a_constant_bin_stays_finite(tmp_path):
    """Its variance is 0 up to rounding."""
    (tmp_path / "cmvn").write_text(json.dumps({"mean_stat": [20.0, 30.0], "var_stat": [40.0, 100.0], "frame_num": 10}))
    cmvn = GlobalCmvn(2)
    cmvn.load(tmp_path / "cmvn")
    assert torch.isfinite(cmvn(torch.tensor([[2.0, 3.0]]))).all()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"mean_stat": [1.0]}', '{"mean_stat": "x", "var_stat": [1], "frame_num": 1}', "\xff"]
)
def test_files_that_are_not_cmvn_are_refused(tmp_path, content):
    path = tmp_path / "cmvn"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=f"{path} is not a global_cmvn file .*: write it with tools/data/compute_cmvn"):
        GlobalCmvn(1).load(path)


@pytest.mark.parametrize("mean, var, count", [([1.0], [1.0], 5), ([1.0, 2.0], [1.0], 5), ([1.0, 2.0], [1.0, 2.0], 0)])
def test_sums_that_do_not_fit_the_model(tmp_path, mean, var, count):
    path = tmp_path / "cmvn"
    path.write_text(json.dumps({"mean_stat": mean, "var_stat": var, "frame_num": count}))
    with pytest.raises(ValueError, match="the model has 2: run tools/data/compute_cmvn_stats.py with the model's conf"):
        GlobalCmvn(2).load(path)


def test_speech_of_another_speaker_changes_the_sums(corpus, compute, tmp_path):
    """If sums did not depend on the speaker, the tests above would compare constants."""
    first = compute(corpus)
    soundfile.write(corpus.with_name("u000.wav"), speak(["one"] * 5, np.random.default_rng(5)), RATE, subtype="PCM_16")
    assert compute(corpus)["mean_stat"] != pytest.approx(first["mean_stat"], rel=1e-3)
