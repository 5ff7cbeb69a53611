"""lhotse's manifests: cuts, supervisions beside recordings, Shar."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import tiny_recipe

from wenet_fusion.data.batch_source import Loading
from wenet_fusion.data.lists.lhotse_cuts import is_lhotse
from wenet_fusion.data.lists.manifest import read_manifest, scan_manifest
from wenet_fusion.data.sources import AudioSource, Utterance, read_samples
from wenet_fusion.evaluation.data_check import check_data
from wenet_fusion.ranks import Ranks
from wenet_fusion.recipe import RecipeConfig, build_source
from wenet_fusion.text.tokenizer import build_tokenizer

RATE = 16000


@pytest.fixture(scope="module")
def lhotse() -> Any:
    return pytest.importorskip("lhotse")


@pytest.fixture(scope="module")
def manifests(lhotse: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings and supervisions as `lhotse prepare` writes them, and cuts of both.

    One recording is in mono, with two utterances; one has two channels, each with an utterance of its own.
    """
    folder = tmp_path_factory.mktemp("lhotse")
    rng = np.random.default_rng(0)
    soundfile.write(folder / "mono.wav", 0.1 * rng.standard_normal(4 * RATE), RATE)
    soundfile.write(folder / "pair.wav", 0.1 * rng.standard_normal((2 * RATE, 2)), RATE)
    recordings = [lhotse.Recording.from_file(folder / name) for name in ("mono.wav", "pair.wav")]
    segments = [("mono", 0.5, 1.5, 0, "one two"), ("mono", 2.5, 1.0, 0, "three"), ("pair", 0, 2, 0, "four")]
    segments.append(("pair", 0, 2, 1, "five"))
    supervisions = [
        lhotse.SupervisionSegment(f"{name}-{n}", name, start, duration, channel, text, speaker="s1")
        for n, (name, start, duration, channel, text) in enumerate(segments)
    ]
    lhotse.RecordingSet.from_recordings(recordings).to_file(folder / "tiny_recordings_train.jsonl.gz")
    lhotse.SupervisionSet.from_segments(supervisions).to_file(folder / "tiny_supervisions_train.jsonl.gz")
    cuts = [
        lhotse.MonoCut(s.id, s.start, s.duration, s.channel, [s.with_offset(-s.start)], recording=recordings[n > 1])
        for n, s in enumerate(supervisions)
    ]
    lhotse.CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    return folder


@pytest.fixture(scope="module")
def recipe(tiny_units: Path) -> RecipeConfig:
    config = tiny_recipe(tiny_units)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, data_type="sequential"))


def expected(folder: Path) -> list[tuple]:
    """Text, file, start, end and channel of each utterance."""
    mono, pair = str(folder / "mono.wav"), str(folder / "pair.wav")
    return [
        ("one two", mono, 0.5, 2.0, None),
        ("three", mono, 2.5, 3.5, None),
        ("four", pair, None, None, 1),
        ("five", pair, None, None, 2),
    ]


def described(utterance: Utterance) -> tuple:
    return utterance.text, utterance.source.path, utterance.start, utterance.end, utterance.channel


@pytest.mark.parametrize("name", ["cuts.jsonl.gz", "tiny_supervisions_train.jsonl.gz"])
def test_cuts_are_utterances(manifests: Path, name: str) -> None:
    utterances = read_manifest(manifests / name)
    assert sorted(map(described, utterances), key=str) == sorted(expected(manifests), key=str)
    assert {utterance.speaker for utterance in utterances} == {"s1"}
    by_text = {utterance.text: utterance for utterance in utterances}
    assert by_text["one two"].seconds == 1.5
    whole, _ = soundfile.read(manifests / "pair.wav", dtype="float32")
    assert np.array_equal(read_samples(by_text["five"], RATE), whole[:, 1])
    assert len(read_samples(by_text["three"], 8000)) == 8000, "resampled by our reader"


def test_several_supervisions_are_several_utterances(lhotse: Any, manifests: Path, tmp_path: Path) -> None:
    recordings = lhotse.load_manifest(manifests / "tiny_recordings_train.jsonl.gz")
    supervisions = lhotse.load_manifest(manifests / "tiny_supervisions_train.jsonl.gz")
    cuts = lhotse.CutSet.from_manifests(recordings, supervisions)
    cuts.subset(cut_ids=[cut.id for cut in cuts if cut.recording_id == "mono"]).to_file(tmp_path / "long.jsonl.gz")
    assert sorted(map(described, read_manifest(tmp_path / "long.jsonl.gz"))) == sorted(expected(manifests)[:2])


def test_entries_that_are_not_utterances_are_named(lhotse: Any, manifests: Path, tmp_path: Path) -> None:
    cuts = lhotse.load_manifest(manifests / "cuts.jsonl.gz").to_eager()
    first = next(iter(cuts))
    wrong = [
        first.drop_supervisions().with_id("silent"),
        first.pad(duration=5.0).with_id("padded"),
        first.perturb_speed(1.1).with_id("fast"),
    ]
    lhotse.CutSet.from_cuts([first, *wrong]).to_file(tmp_path / "cuts.jsonl.gz")
    listed = scan_manifest(tmp_path / "cuts.jsonl.gz")
    assert [utterance.text for utterance in listed.utterances] == ["one two"]
    assert [problem.split(": ")[1] for problem in listed.problems] == ["silent", "padded", "fast"]
    (tmp_path / "other.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="other.jsonl.gz: is no lhotse manifest of cuts"):
        read_manifest(tmp_path / "other.jsonl.gz")
    (tmp_path / "a_supervisions.jsonl.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="there is no a_recordings.jsonl.gz beside it"):
        read_manifest(tmp_path / "a_supervisions.jsonl.gz")


def test_shar_is_read_in_sequence(lhotse: Any, manifests: Path, tmp_path: Path, recipe: RecipeConfig) -> None:
    words = {"four": "one", "five": "two"}
    cuts = [cut for cut in lhotse.load_manifest(manifests / "cuts.jsonl.gz") if cut.recording.num_channels == 1]
    for cut in cuts:
        cut.supervisions[0].text = words.get(cut.supervisions[0].text, cut.supervisions[0].text)
    (tmp_path / "shar").mkdir()
    lhotse.CutSet.from_cuts(cuts).to_shar(tmp_path / "shar", fields={"recording": "flac"}, shard_size=1)
    source = build_source(recipe, tmp_path / "shar", build_tokenizer(recipe.tokenizer, Path()))
    assert source.description() == "2 shards, read in sequence"
    batches = list(source.epoch(0, 0, 10, Loading(60.0, 8, seed=0), Ranks()).batches)
    lengths = {
        key: int(length) - source.frontend.right_padding_samples
        for loaded in batches
        for key, length in zip(loaded.batch.keys, loaded.batch.sample_lengths_B)
    }
    assert lengths == {"mono-0": 12000, "mono-1": 8000} and source.skipped == []
    cuts[0].supervisions[0].text = "unheard"
    (tmp_path / "odd").mkdir()
    lhotse.CutSet.from_cuts(cuts).to_shar(tmp_path / "odd", fields={"recording": "flac"}, shard_size=1)
    report = check_data(recipe, tmp_path / "odd")
    assert str(report.skipped[0]).startswith(f"{tmp_path}/odd/cuts.000000.jsonl.gz: mono-0: 'unheard' in")
    assert f"has 1.00 s ({tmp_path}/odd/cuts.000001.jsonl.gz: mono-1)" in report.facts[-1]
    with pytest.raises(ValueError, match=r"is a folder; if it holds lhotse's Shar, set data.data_type=sequential"):
        read_manifest(tmp_path / "shar")
    next((tmp_path / "shar").glob("recording*.tar")).unlink()
    with pytest.raises(ValueError, match=r"cuts.00000\d.jsonl.gz: has no recording.00000\d.tar beside it"):
        build_source(recipe, tmp_path / "shar", build_tokenizer(recipe.tokenizer, Path()))


def test_without_lhotse_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lhotse", None)
    (tmp_path / "cuts.jsonl.gz").write_bytes(b"")
    with pytest.raises(ImportError, match=r"cuts.jsonl.gz: needs lhotse .*pip install 'wenet-fusion\[lhotse\]'"):
        read_manifest(tmp_path / "cuts.jsonl.gz")


def test_audio_in_memory_is_named_by_its_place() -> None:
    with pytest.raises(ValueError, match=r"a.tar \(u1 at byte 512\): is no audio file|a.tar \(u1 at byte 512\)"):
        read_samples(Utterance("u1", AudioSource("a.tar", 512, 8, b"no audio"), "", 0.0), RATE)


@pytest.mark.parametrize("names", [("audio_filepath", "text"), ("wav", "txt")])
def test_raw_lists_may_be_named_jsonl(tmp_path: Path, names: tuple[str, str]) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(800), RATE)
    path = tmp_path / "train.jsonl"
    path.write_text("\n" + json.dumps({"key": "a", names[0]: "a.wav", names[1]: "one"}) + "\n")
    assert [(found.key, found.text) for found in read_manifest(path)] == [("a", "one")]
    path.write_text('{"key": "a", \n')
    with pytest.raises(ValueError, match="train.jsonl:1: not valid JSON"):
        read_manifest(path)
    path.write_text('{"id": "a", "start": 0, "duration": 0.5, "type": "MonoCut"}\n')
    assert is_lhotse(path)
