"""data.list files: every form is read, audio is found by offset, every problem is reported with its line or member."""

import dataclasses
import io
import json
import os
import tarfile

import numpy as np
import pytest
import soundfile

from wenet_fusion.data.lists.manifest import read_manifest, scan_manifest
from wenet_fusion.data.sources import read_header, read_samples

RATE = 8000


def tone(seconds=0.5, rate=RATE, seed=0):
    return (0.3 * np.random.default_rng(seed).standard_normal(round(seconds * rate))).clip(-1, 1).astype(np.float32)


def write_list(folder, *lines):
    path = folder / "data.list"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def encoded(samples, kind="wav"):
    buffer = io.BytesIO()
    container = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "mp3": ("MP3", "MPEG_LAYER_III")}
    kind, subtype = container.get(kind, ("OGG", "OPUS" if kind == "opus" else "VORBIS"))
    soundfile.write(buffer, samples, RATE, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    (tmp_path / "sub").mkdir()
    soundfile.write(tmp_path / "sub" / "b.flac", tone(1.0), RATE)
    return tmp_path


def test_raw_list(folder):
    path = write_list(
        folder,
        {"key": "a", "wav": "a.wav", "txt": "one"},
        {"key": "b", "wav": str(folder / "sub/b.flac"), "txt": "", "start": 0.25, "end": 0.75, "speaker": "s"},
        "",
        {"key": "c", "wav": "a.wav", "txt": "x", "duration": 0.5},
        {"key": "d", "wav": "sub/b.flac", "txt": "x", "start": 0.25},
        {"key": "e", "wav": "sub/b.flac", "txt": "x", "end": 0.25, "duration": 9},
    )
    utterances = {utterance.key: utterance for utterance in read_manifest(path, "raw")}
    assert list(utterances) == ["a", "b", "c", "d", "e"]
    assert [utterance.seconds for utterance in utterances.values()] == pytest.approx([0.5, 0.5, 0.5, 0.75, 0.25])
    assert utterances["a"].source.path == str(folder / "a.wav") and utterances["b"].speaker == "s"
    for utterance in utterances.values():
        assert read_samples(utterance, RATE).size == round(RATE * utterance.seconds)
    whole = read_samples(dataclasses.replace(utterances["b"], start=None, end=None), RATE)
    assert np.array_equal(read_samples(utterances["b"], RATE), whole[RATE // 4 : 3 * RATE // 4])


def test_nemo_list(folder):
    path = write_list(
        folder,
        {"audio_filepath": "a.wav", "text": "one", "duration": 0.5},
        {"audio_filepath": "sub/b.flac", "text": "two", "duration": 0.25, "offset": 0.0},
        {"audio_filepath": "sub/b.flac", "text": "three", "duration": 0.25, "offset": 0.5},
    )
    found = [(u.key, u.text, u.start, u.end, u.seconds) for u in read_manifest(path, "raw")]
    assert found == [
        ("a", "one", None, None, 0.5),
        ("sub/b-00000000", "two", 0.0, 0.25, 0.25),
        ("sub/b-00000500", "three", 0.5, 0.75, 0.25),
    ]


def test_equal_base_names_of_a_nemo_list_are_different_utterances(folder):
    for name in ("s 1", "s2", "../outside"):
        (folder / name).mkdir()
        (folder / name / "1.wav").write_bytes((folder / "a.wav").read_bytes())
    line = {"text": "one", "duration": 0.5}
    paths = ("s 1/1.wav", "./s2/1.wav", "../outside/1.wav", str(folder / "a.wav"))
    path = write_list(
        folder, *({"audio_filepath": name, **line} for name in paths), {"audio_filepath": "a.wav", "key": "k", **line}
    )
    assert [item.key for item in read_manifest(path)] == ["s_1/1", "s2/1", "outside/1", "a", "k"]
    path = write_list(folder, *[{"audio_filepath": "a.wav", **line}] * 2)
    with pytest.raises(ValueError, match=r"data.list:2: key 'a' is already in .*:1; give each its own \"key\""):
        read_manifest(path)


def test_relative_paths_start_at_the_list_or_as_in_wenet_at_the_working_directory(folder, monkeypatch):
    (folder / "data" / "train").mkdir(parents=True)
    write_shard(folder)
    monkeypatch.chdir(folder)
    raw = write_list(folder / "data" / "train", {"key": "a", "wav": "a.wav", "txt": "one"})
    assert [item.source.path for item in read_manifest(raw)] == [str(folder / "a.wav")]
    soundfile.write(folder / "data/train/a.wav", tone(), RATE)
    assert [item.source.path for item in read_manifest(raw)] == [str(folder / "data/train/a.wav")]
    shards = write_list(folder / "data" / "train", "shard.tar")
    assert {item.source.path for item in read_manifest(shards)} == {str(folder / "shard.tar")}
    with pytest.raises(ValueError, match=f"there is no shard {folder}/data/train/y.tar, nor {folder}/y.tar"):
        read_manifest(write_list(folder / "data" / "train", "y.tar"), "shard")


def test_an_end_of_minus_one_is_the_end_of_the_audio(folder):
    path = write_list(
        folder,
        {"key": "a", "wav": "a.wav", "txt": "one", "start": 0.1, "end": -1},
        {"audio_filepath": "a.wav", "text": "two", "offset": 0.2, "duration": -1},
    )
    assert [item.seconds for item in read_manifest(path)] == pytest.approx([0.4, 0.3])


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes")
def test_file_names_need_not_be_utf_8(folder):
    name = b"caf\xe9.wav"
    os.rename(folder / "a.wav", os.fsencode(folder) + b"/" + name)
    (folder / "data.list").write_bytes(
        b'{"key": "a", "wav": "' + name + b'", "txt": "one"}\n{"audio_filepath": "caf\\udce9.wav", "text": "two"}\n'
    )
    first, second = read_manifest(folder / "data.list")
    assert os.fsencode(first.source.path) == os.fsencode(second.source.path) == os.fsencode(folder) + b"/" + name
    assert second.key == r"caf\udce9"
    with pytest.raises(ValueError, match=r"data.list:1: there is no audio file .*caf\\udcee.wav"):
        (folder / "data.list").write_bytes(b'{"key": "a", "wav": "caf\xee.wav", "txt": "one"}\n')
        read_manifest(folder / "data.list")
    with pytest.raises(ValueError, match=r"data.list:1: txt 'caf.+udce9' is not UTF-8 text; convert the list"):
        (folder / "data.list").write_bytes(b'{"key": "a", "wav": "x.wav", "txt": "caf\xe9"}\n')
        read_manifest(folder / "data.list")


def test_every_problem_of_a_raw_list_has_its_line(folder):
    good = {"key": "a", "wav": "a.wav", "txt": "one"}
    path = write_list(
        folder,
        good,
        "{",
        "[1]",
        {"key": "b", "wav": "a.wav"},
        good,
        {**good, "key": "c", "wav": "none.wav"},
        {**good, "key": "d", "txt": 5},
        {**good, "key": "e", "start": 2, "end": 1},
        {**good, "key": "f g"},
        {**good, "key": "h", "duration": "long"},
        {**good, "key": "i", "start": -1.0},
        "[" * 100_000,
        "shard.tar",
    )
    with pytest.raises(ValueError) as caught:
        read_manifest(path, "raw")
    lines = str(caught.value).split("\n")
    expected = [
        "2: not valid JSON",
        "3: expected a JSON object",
        "4: no txt in",
        f"5: key 'a' is already in {path}:1",
        f"6: there is no audio file {folder}/none.wav",
        "7: txt must be a string, found 5",
        "8: end 1.0 must come after start 2.0",
        "9: key 'f g' must be one word",
        '10: duration must be a number of seconds, not negative and at most 1e+09, found "long"',
        "11: start must be a number",
        "12: not valid JSON",
        "13: not valid JSON",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected):
        assert line.startswith(f"{path}:{start}"), (line, start)
    assert lines[-1].endswith("is this a list of shards? Then set data.data_type=shard")


def test_long_lists_of_problems_are_cut_and_counted(folder):
    path = write_list(folder, *["{"] * 50)
    with pytest.raises(ValueError, match="50 problems in all") as caught:
        read_manifest(path, "raw")
    assert len(str(caught.value).split("\n")) == 21


def test_missing_empty_and_binary_lists(folder):
    with pytest.raises(
        FileNotFoundError, match="none.list: there is no such list; write it with tools/data/make_raw_list"
    ):
        read_manifest(folder / "none.list", "raw")
    with pytest.raises(ValueError, match="lists no utterances; write it with"):
        read_manifest(write_list(folder, "", " "), "shard")
    with pytest.raises(ValueError, match="a.wav:1: not UTF-8 text: RIFF"):
        read_manifest(folder / "a.wav", "raw")


def test_unreadable_headers_are_left_to_the_dataset(folder):
    (folder / "bad.wav").write_bytes(b"RIFF")
    (utterance,) = read_manifest(write_list(folder, {"key": "a", "wav": "bad.wav", "txt": ""}), "raw")
    assert utterance.seconds == 0.0


def write_shard(folder, kind="wav"):
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for number in range(3):
            add(tar, f"k.{number}.txt", f"word {number}\n".encode())
            add(tar, f"k.{number}.{kind}", encoded(tone(0.5 + number, seed=number), kind))
            add(tar, f"k.{number}.json", b"{}")
    return write_list(folder, "shard.tar")


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "mp3"])
def test_shard(folder, kind):
    utterances = read_manifest(write_shard(folder, kind), "shard")
    assert [(u.key, u.text) for u in utterances] == [(f"k.{n}", f"word {n}") for n in range(3)]
    assert [u.seconds for u in utterances] == pytest.approx([0.5, 1.5, 2.5], abs=0.1)
    for number, utterance in reversed(list(enumerate(utterances))):
        samples = read_samples(utterance, RATE)
        assert abs(samples.size - RATE * (0.5 + number)) < 0.1 * RATE
        if kind in ("wav", "flac"):
            assert np.abs(samples - tone(0.5 + number, seed=number)).max() < 1e-4


def test_damaged_shards_are_named(folder):
    path = write_shard(folder)
    tar = folder / "shard.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:20000])
    with pytest.raises(ValueError, match=r"data.list:1: .*shard.tar: damaged after k\.1\.wav"):
        read_manifest(path, "shard")
    tar.write_bytes(b"junk" * 300)
    with pytest.raises(ValueError, match="shard.tar: damaged after the beginning, or not an uncompressed tar"):
        read_manifest(path, "shard")
    with tarfile.open(tar, "w") as file:
        add(file, "a.txt", b"one")
        add(file, "b.wav", encoded(tone()))
        add(file, "c.txt", b"three")
        add(file, "c.wav", b"")
    with pytest.raises(ValueError) as caught:
        read_manifest(path, "shard")
    assert [line.split("shard.tar: ")[1] for line in str(caught.value).split("\n")] == [
        "member c.wav is empty",
        "member a.txt has no audio a.(wav|flac|ogg|opus|mp3|m4a|aac|webm|wma|spx|amr|aiff)",
        "audio of 'b' has no member b.txt",
    ]
    with tarfile.open(tar, "a") as file:
        add(file, "d.txt", b"\xff\xfe")
        add(file, "d.wav", encoded(tone()))
        add(file, "e.txt", b"five")
        add(file, "e.wav", encoded(tone()))
    listed = scan_manifest(path)
    assert [utterance.key for utterance in listed.utterances] == ["e"] and len(listed.problems) == 4
    assert listed.problems[1].endswith("shard.tar: member d.txt is not UTF-8 text")
    tar.write_bytes(content[:20000])
    listed = scan_manifest(path)
    assert [utterance.key for utterance in listed.utterances] == ["k.0"] and len(listed.problems) == 1
    with tarfile.open(tar, "w") as file:
        add(file, "a.txt", b"\xff\xfe")
    with pytest.raises(ValueError, match="shard.tar: member a.txt is not UTF-8 text"):
        read_manifest(path, "shard")


def test_lists_of_the_wrong_type_and_urls(folder):
    with pytest.raises(ValueError, match="found JSON; is this a raw list. Then set data.data_type=raw"):
        read_manifest(write_list(folder, {"key": "a", "wav": "a.wav", "txt": ""}), "shard")
    with pytest.raises(ValueError, match="download it"):
        read_manifest(write_list(folder, "https://x/y.tar"), "shard")
    with pytest.raises(ValueError, match="there is no shard"):
        read_manifest(write_list(folder, "y.tar"), "shard")


def test_the_type_of_a_list_is_found(folder):
    shards, raw = (
        write_shard(folder).rename(folder / "shards.list"),
        write_list(folder, "", {"key": "a", "wav": "a.wav", "txt": ""}),
    )
    assert read_manifest(shards) == read_manifest(shards, "shard")
    assert read_manifest(raw) == read_manifest(raw, "raw")


def test_segments_must_lie_inside_the_audio(folder):
    path = write_list(folder, {"key": "a", "wav": "a.wav", "txt": "one", "start": 0.2, "end": 0.7})
    (utterance,) = read_manifest(path, "raw")
    with pytest.raises(ValueError, match=r"segment 0.200-0.700 s is not inside its 0.500 s"):
        read_header(utterance)
    close = dataclasses.replace(utterance, end=0.55)
    assert read_header(close).seconds == pytest.approx(0.3)
    assert read_samples(close, RATE).size == 0.3 * RATE
