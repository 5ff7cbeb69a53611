"""Stated durations are trusted at the start and verified when audio is read; filtered utterances are named."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
from wenet_fusion_runtime.results.vocabulary import Vocabulary

from wenet_fusion.config import ConfigError, config_from_mapping
from wenet_fusion.data import dataset as dataset_module
from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.data.filters import Filters
from wenet_fusion.data.judgement import FrontendGeometry
from wenet_fusion.data.lists.manifest import read_manifest, read_table
from wenet_fusion.data.sources import AudioSource, Utterance
from wenet_fusion.data.utterance_table import TokenColumn, UtteranceTable
from wenet_fusion.text.tokenizer import CharTokenizer

RATE = 8000
FRONTEND = FrontendGeometry(sample_rate=RATE, frame_samples=320, right_padding_samples=640)
# The hashes of key u0, extent "1.000 None None" and ids [3, 4] that earlier versions computed.
HASHES = [-4621855612441126174, 3509345869374958500, 3356778446654751564]
TOKENIZER = CharTokenizer(Vocabulary(("<blank>", "<unk>", "<sos/eos>", "one", "two"), "words", "units.txt"))


def write_list(folder, *stated, real=None, text="one"):
    """Write utterances u0, u1, ... with stated durations (None: not stated); `real` holds the true durations."""
    lines = []
    for number, seconds in enumerate(stated):
        path = folder / f"u{number}.wav"
        if real is not None:
            samples = np.random.default_rng(number).uniform(-0.5, 0.5, round(RATE * real[number]))
            soundfile.write(path, samples, RATE, subtype="PCM_16")
        line = {"key": f"u{number}", "wav": str(path), "txt": text}
        lines.append(json.dumps(line | ({} if seconds is None else {"duration": seconds})) + "\n")
    (folder / "data.list").write_text("".join(lines))
    return folder / "data.list"


def test_no_audio_is_opened_at_the_start(tmp_path, monkeypatch):
    """281,000 headers take minutes, at each start and in each rank."""
    monkeypatch.setattr(dataset_module, "read_headers", lambda utterances: [pytest.fail("opened") for _ in utterances])
    dataset = SpeechDataset(read_table(write_list(tmp_path, 1.0, 2.5)), TOKENIZER, FRONTEND)
    assert dataset.seconds.tolist() == [1.0, 2.5] and not dataset.skipped


@pytest.mark.parametrize("stated", [None, 0, 1e8])
def test_implausible_durations_are_measured(tmp_path, stated):
    path = write_list(tmp_path, stated, real=[1.5])
    assert SpeechDataset(read_table(path), TOKENIZER, FRONTEND).seconds.tolist() == [1.5]
    assert [utterance.seconds for utterance in read_manifest(path)] == [1.5]


def test_segments_and_durations_agree(tmp_path):
    path = write_list(tmp_path, 1.0, real=[2.0])
    (line,) = map(json.loads, path.read_text().splitlines())
    for changes, expected in (
        ({"start": 0.5, "end": 1.52}, 1.0),  # the stated duration, which is within the tolerance
        ({"start": 0.5, "end": 1.9}, 1.4),
        ({"start": 0.5, "end": -1, "duration": 1.5}, 1.5),
        ({"start": 0.5, "end": -1, "duration": None}, 0.0),
    ):
        path.write_text(json.dumps(line | changes) + "\n")
        assert read_table(path).seconds.tolist() == pytest.approx([expected])


def test_wrong_durations_are_counted_and_named(tmp_path):
    path = write_list(tmp_path, 1.0, 1.0, 2.0, 1.0, real=[1.05, 1.2, 2.0, 0.5])
    dataset = SpeechDataset(read_table(path), TOKENIZER, FRONTEND)
    for _ in range(2):
        assert dataset.batch([0, 1, 2, 3], 0).keys == ("u0", "u1", "u2", "u3")
    assert [skip.key for skip in dataset.misstated] == ["u1", "u3"] and not dataset.skipped
    (note,) = dataset.notes()
    assert note.startswith(
        f"2 utterances differ from the listed duration: {path}:2: u1: {tmp_path}/u1.wav: lasts 1.20 s, its list"
    )


def test_audio_without_room_in_its_batch_is_skipped_before_it_is_decoded(tmp_path, monkeypatch):
    path = write_list(tmp_path, 1.0, 1.0, 1.2, real=[1.0, 60.0, 1.0])
    dataset = SpeechDataset(read_table(path), TOKENIZER, FRONTEND, max_skipped=0.5)
    assert dataset.batch([0, 1, 2], 0).keys == ("u0", "u2")
    assert [str(skip) for skip in dataset.skipped] == [
        f"{path}:2: u1: {tmp_path}/u1.wav: lasts more than 1.7 s; its list states 1.00 s"
    ]


def test_filters_leave_out_count_and_name(tmp_path):
    path = write_list(tmp_path, 1.0, 600.0, 0.05, 2.0, 1.0)
    utterances = read_table(path)
    utterances = [*utterances][:3] + [
        dataclasses.replace(utterances[3], text="one two " * 6),
        dataclasses.replace(utterances[4], text="one two " * 3),
    ]
    filters = Filters(longest_tokens=10, most_characters_per_second=15.0)
    dataset = SpeechDataset(utterances, TOKENIZER, FRONTEND, max_skipped=0.0, filters=filters)
    assert [skip.rule for skip in dataset.filtered] == list(vars(filters)) and not dataset.skipped and len(dataset) == 1
    assert dataset.description() == "1 utterance, 0.00 h, 0 skipped, 4 beyond data.filters"
    first = "1 of 5 utterances are beyond data.filters.longest_seconds and are left out: "
    assert dataset.notes()[0] == f"{first}{path}:2: u1: lasts 600.0 s"
    dev = SpeechDataset(utterances, TOKENIZER, FRONTEND, filters=filters, keeps_all=True)
    assert len(dev) == 5 and not dev.filtered
    assert [note.split(":")[0].split(".")[-1] for note in dev.notes()] == [
        f"{rule} and are kept" for rule in vars(filters)
    ]


def test_filters_that_cannot_work_are_refused():
    for values in ({"longest_seconds": 0.0}, {"longest_tokens": 0}, {"most_characters_per_second": 0}):
        with pytest.raises(ConfigError):
            config_from_mapping(Filters, values, "c")


def test_a_table_returns_the_utterances_that_it_stores(tmp_path):
    utterances = [
        Utterance("ü1", AudioSource("caf\udce9.flac", 512, 3000), "你好", 1.25, 0.5, 1.75, "s1", 2),
        Utterance("u2", AudioSource("\ud800"), "", 0.0, channel=0),
    ]
    table = UtteranceTable(utterances)
    assert list(table) == utterances == table[:] and table[-1] == utterances[1]
    with pytest.raises(IndexError):
        table[2]
    assert list(table.extents()) == ["1.250 0.5 2", "0.000 None 0"]


def test_hashes_are_those_of_earlier_training_states(tmp_path):
    """Otherwise a run of an earlier version could not be resumed."""
    dataset = SpeechDataset(read_table(write_list(tmp_path, 1.0, text="one two")), TOKENIZER, FRONTEND)
    assert dataset.contents.hashes.tolist() == [HASHES]


def test_token_ids_are_hashed_as_python_prints_them():
    """The hashes of earlier training states stay equal."""
    lists = [[3], [], [0, 9, 10, 99, 100, 65535], [70000, 5], list(range(1200)), []]
    for size in (1 << 16, 1 << 17):
        column = TokenColumn(size)
        kept = [ids for ids in lists if max(ids, default=0) < size]
        for ids in kept:
            column.append(ids)
        assert list(column.printed()) == list(map(str, kept)) and list(column) == kept
    assert list(TokenColumn(5).printed()) == []


def test_transcripts_are_examined_once_for_all_notes(tmp_path, monkeypatch):
    """One examination of 281,000 transcripts takes seconds."""
    dataset = SpeechDataset(read_table(write_list(tmp_path, 1.0, text="\uff4fne")), TOKENIZER, FRONTEND)
    examined = []
    note = dataset_module.normalization_note
    monkeypatch.setattr(dataset_module, "normalization_note", lambda texts: examined.append(1) or note(texts))
    assert dataset.description() == "1 utterance, 0.00 h, 0 skipped" and not examined
    assert dataset.notes() == dataset.notes() != () and len(examined) == 1
