"""Scripts that prepare data: lists are complete, mismatches are counted, failures leave no partial files."""

import json
import os
import subprocess
import sys
import tarfile

import kaldi_corpus
import numpy as np
import pytest
import soundfile
from kaldi_corpus import read_corpus
from support.recipes.scripts import TOOLS, load_script

from wenet_fusion.data.lists.manifest import read_manifest
from wenet_fusion.data.sources import read_samples

RATE = 8000
make_raw_list, make_shard_list, make_vocabulary = map(
    load_script, ("make_raw_list", "make_shard_list", "make_vocabulary")
)


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A corpus with relative paths in wav.scp, an empty transcript, and segments; its folder is the working folder."""
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        samples = np.random.default_rng(number).integers(-32768, 32768, 4000 + 400 * number).astype(np.int16)
        soundfile.write(f"r{number}.wav", samples, RATE, subtype="PCM_16")
    (tmp_path / "wav.scp").write_text("".join(f"r{n} r{n}.wav\n" for n in range(5)))
    (tmp_path / "text").write_text("r0 one two\nr1 two\nr2\nr3 three\nr4 你好 one\n")
    (tmp_path / "segments").write_text("s1 r0 0.1 0.3\ns2 r0 0.25 0.5\ns3 r4 0 0.2\n")
    (tmp_path / "text.segments").write_text("s1 one\ns2 two\ns3 three\n")
    return tmp_path


def run(script, *arguments, **environment):
    return subprocess.run(
        [sys.executable, str(next(TOOLS.rglob(script))), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_raw_list(corpus):
    assert make_raw_list.main(["wav.scp", "text", "out/data.list"]) == 0
    lines = [json.loads(line) for line in (corpus / "out/data.list").read_text().splitlines()]
    assert lines[0] == {"key": "r0", "wav": str(corpus / "r0.wav"), "txt": "one two", "duration": 0.5}
    assert [line["txt"] for line in lines] == ["one two", "two", "", "three", "你好 one"]
    assert [u.seconds for u in read_manifest(corpus / "out/data.list", "raw")] == [0.5, 0.55, 0.6, 0.65, 0.7]


def test_a_list_names_the_speakers_of_utt2spk(corpus):
    (corpus / "utt2spk").write_text("".join(f"r{number} speaker{number % 2}\n" for number in range(6)))
    assert make_raw_list.main(["wav.scp", "text", "data.list", "--utt2spk", "utt2spk"]) == 0
    expected = ["speaker0", "speaker1"] * 2 + ["speaker0"]
    assert [utterance.speaker for utterance in read_manifest(corpus / "data.list", "raw")] == expected
    (corpus / "utt2spk").write_text("r0 one\nr1 one\nr2\nr4 one\n")
    with pytest.raises(ValueError, match="utt2spk: 2 of 5 utterances have no speaker, such as r2"):
        make_raw_list.main(["wav.scp", "text", "other.list", "--utt2spk", "utt2spk"])
    assert not (corpus / "other.list").exists()


def test_shards_hold_the_very_samples(corpus):
    make_raw_list.main(["wav.scp", "text", "raw.list"])
    options = ["--num_utts_per_shard", "2", "--num_threads", "2", "--prefix", "p"]
    arguments = [*options, "wav.scp", "text", "shards", "s.list"]
    make_shard_list.main(arguments)
    first = {path.name: path.read_bytes() for path in (corpus / "shards").iterdir()}
    names = [f"p_{number:09d}.tar" for number in range(3)]
    assert sorted(first) == sorted(names + [f"{name}.index" for name in names])
    raw, shard = read_manifest(corpus / "raw.list", "raw"), read_manifest(corpus / "s.list", "shard")
    assert [(u.key, u.text, u.seconds) for u in raw] == [(u.key, u.text, u.seconds) for u in shard]
    for left, right in zip(raw, shard):
        assert np.array_equal(read_samples(left, RATE), read_samples(right, RATE))
    make_shard_list.main(arguments)
    assert first == {path.name: path.read_bytes() for path in (corpus / "shards").iterdir()}, "same input, same bytes"


def test_resampled_shards(corpus):
    make_shard_list.main(["--resample", "16000", "wav.scp", "text", "shards", "s.list"])
    for utterance in read_manifest(corpus / "s.list", "shard"):
        assert soundfile.info(f"{utterance.key}.wav").duration == pytest.approx(utterance.seconds, abs=1e-3)
        assert read_samples(utterance, 16000).size == round(16000 * utterance.seconds)


def write_call():
    """Write call.wav, a stereo file of opposite channels, and return the first channel."""
    side = soundfile.read("r0.wav", dtype="int16")[0] // 2
    soundfile.write("call.wav", np.stack([side, -side], axis=1), RATE)
    return side


@pytest.mark.parametrize("kind", ["raw", "shard"])
def test_channels(corpus, kind):
    """A stereo file is two recordings, as in Kaldi's telephone corpora."""
    side = write_call()
    (corpus / "wav.scp").write_text("call call.wav\nr2 r2.wav\n")
    (corpus / "channels").write_text("call-A call A\ncall-B call 2\n")
    (corpus / "segments").write_text("a call-A 0.1 0.3\nb call-B 0.1 0.3\nc r2 0 0.2\n")
    (corpus / "text").write_text("a one\nb two\nc three\n")
    arguments = ["--segments", "segments", "--reco2file_and_channel", "channels", "wav.scp", "text"]
    if kind == "raw":
        make_raw_list.main([*arguments, "data.list"])
    else:
        make_shard_list.main([*arguments, "shards", "data.list"])
    first, second, third = (read_samples(utterance, RATE) for utterance in read_manifest("data.list", kind))
    assert np.array_equal(first, side[800:2400] / 32768) and len(third) == 1600
    assert np.array_equal(second, -side[800:2400] / 32768)
    (corpus / "channels").write_text("call-A call A\ncall-B call C\ncall-C call\n")
    with pytest.raises(ValueError, match="call-B: expected 'file channel', channel A, B or from 1, .*\n.*call-C: exp"):
        make_raw_list.main([*arguments, "data.list"])


def test_channels_of_segments_count_from_0(corpus):
    """As in Kaldi's extract-segments, and they override reco2file_and_channel."""
    side = write_call()
    (corpus / "wav.scp").write_text("call call.wav\n")
    (corpus / "channels").write_text("call call 1\n")
    (corpus / "segments").write_text("a call 0 -1 0\nb call 0 0.5 1\nc call 0 -1 B\nd call 0 -1\n")
    (corpus / "text").write_text("a one\nb one\nc one\nd one\n")
    arguments = ["--segments", "segments", "--reco2file_and_channel", "channels", "wav.scp", "text", "data.list"]
    make_raw_list.main(arguments)
    assert [item.channel for item in read_manifest("data.list", "raw")] == [1, 2, 2, 1]
    for utterance, sign in zip(read_manifest("data.list", "raw"), (1, -1, -1, 1)):
        assert np.array_equal(read_samples(utterance, RATE), sign * side / np.float32(32768))
    (corpus / "segments").write_text("a call 0 -1 -1\nb call 0 0.5 0 0\nc call 0 1 x\n")
    message = r"(segments: .: expected 'recording start end', optionally with a channel .*\s*){3}"
    with pytest.raises(ValueError, match=message):
        make_raw_list.main(arguments)


@pytest.mark.parametrize("kind", ["raw", "shard"])
def test_segments(corpus, kind):
    if kind == "raw":
        make_raw_list.main(["--segments", "segments", "wav.scp", "text.segments", "data.list"])
    else:
        make_shard_list.main(["--segments", "segments", "wav.scp", "text.segments", "shards", "data.list"])
    utterances = read_manifest(corpus / "data.list", kind)
    assert [u.seconds for u in utterances] == pytest.approx([0.2, 0.25, 0.2])
    whole, _ = soundfile.read("r0.wav", dtype="float32")
    assert np.array_equal(read_samples(utterances[0], RATE), whole[800:2400])


def test_mismatches_are_refused_or_left_out(corpus):
    (corpus / "text").write_text("r0 one\nr1 two\nr3 three\nr9 four\n")
    (corpus / "wav.scp").write_text("r0 r0.wav\nr1 gone.wav\nr2 r2.wav\nr3 empty.wav\n")
    (corpus / "empty.wav").write_bytes(b"")
    result = run("make_raw_list.py", "wav.scp", "text", "data.list")
    assert result.returncode == 1 and not (corpus / "data.list").exists() and "Traceback" not in result.stderr
    assert result.stderr.startswith("error: 4 utterances cannot be listed; mend them, or leave them out with --allow_m")
    reasons = ("r9: has no audio in wav.scp", "r2: has no transcript in text", "gone.wav", "empty.wav: is an empty")
    assert all(reason in result.stderr for reason in reasons)
    result = run("make_raw_list.py", "--allow_missing", "wav.scp", "text", "data.list")
    assert result.returncode == 0 and result.stderr.startswith("left out 4 utterances:\n")
    assert [u.key for u in read_manifest(corpus / "data.list", "raw")] == ["r0"]


def test_audio_that_does_not_decode_stays_out_of_shards(corpus):
    soundfile.write("r1.flac", np.random.default_rng(0).uniform(-1, 1, 80000), RATE)
    (corpus / "r1.flac").write_bytes((corpus / "r1.flac").read_bytes()[:60000])
    (corpus / "wav.scp").write_text("r0 r0.wav\nr1 r1.flac\n")
    (corpus / "text").write_text("r0 one\nr1 two\n")
    arguments = ["--num_utts_per_shard", "1", "wav.scp", "text", "shards", "s.list"]
    with pytest.raises(ValueError, match="r1: .*r1.flac: is damaged"):
        make_shard_list.main(arguments)
    assert not (corpus / "s.list").exists()
    make_shard_list.main(["--allow_missing", *arguments])
    assert [u.key for u in read_manifest(corpus / "s.list", "shard")] == ["r0"]


def test_segments_to_the_end_of_their_recordings(corpus):
    (corpus / "segments").write_text("s1 r0 0.1 -1\ns2 r1 0 -1.00\ns3 r4 0 0.2\n")
    for kind, arguments in (("raw", ["raw.list"]), ("shard", ["shards", "shard.list"])):
        script = make_raw_list if kind == "raw" else make_shard_list
        script.main(["--segments", "segments", "wav.scp", "text.segments", *arguments])
        utterances = read_manifest(corpus / arguments[-1], kind)
        assert [u.seconds for u in utterances] == pytest.approx([0.4, 0.55, 0.2])
    whole, _ = soundfile.read("r0.wav", dtype="float32")
    assert np.array_equal(read_samples(read_manifest(corpus / "raw.list", "raw")[0], RATE), whole[800:])


def test_lists_and_vocabularies_hold_one_spelling(corpus, capsys):
    (corpus / "text").write_text("r0 café\nr1 cafe\u0301\nr2 café\u200b\nr3 \uff43\uff41\uff46é\n", encoding="utf-8")
    make_raw_list.main(["--allow_missing", "wav.scp", "text", "data.list"])
    assert {item.text for item in read_manifest(corpus / "data.list", "raw")} == {"café"}
    make_vocabulary.main(["--kind", "words", "text", "lang"])
    assert (corpus / "lang/units.txt").read_text(encoding="utf-8").splitlines()[3:] == ["café 3"]
    found = "(1 not in NFC, 1 with invisible characters, 1 with full-width letters): r1, r2, r3\n"
    assert capsys.readouterr().err.count(f"note: text: 3 of 4 transcripts were normalised {found}") == 2


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes")
def test_file_names_need_not_be_utf_8(corpus):
    os.makedirs(b"caf\xe9")
    os.rename("r0.wav", b"caf\xe9/r0.wav")
    (corpus / "wav.scp").write_bytes(b"r0 caf\xe9/r0.wav\nr1 caf\xe9/gone.wav\n")
    (corpus / "text").write_text("r0 one\nr1 two\n")
    for kind, outputs in (("raw", [b"caf\xe9/raw.list"]), ("shard", [b"caf\xe9/shards", b"caf\xe9/shards.list"])):
        outputs = list(map(os.fsdecode, outputs))
        result = run(f"make_{kind}_list.py", "--allow_missing", "wav.scp", "text", *outputs)
        assert result.returncode == 0 and r"caf\udce9/gone.wav" in result.stderr, result.stderr
        assert result.stdout.startswith(outputs[-1].encode("utf-8", "backslashreplace").decode())
        (utterance,) = read_manifest(outputs[-1], kind)
        assert read_samples(utterance, RATE).size == 4000


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("text", "r0 one\nr0 two\n", "text:2: key 'r0' is already in line 1"),
        ("wav.scp", "r0 sox x.wav -t wav - |\nr1\n", "wav.scp: r1 has no path\n.*wav.scp: r0 is a command"),
        ("segments", "s1 r0 0.1\ns2 r0 0.5 0.2\ns3 r0 nan 1\n", "s1: expected .*\n.*s2: start 0.5 .*\n.*s3: start nan"),
        ("text", "x1 one\n", "have no usable utterance in common"),
    ],
)
def test_malformed_tables(corpus, file, content, message):
    (corpus / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_corpus(corpus / "wav.scp", corpus / "text", corpus / "segments" if file == "segments" else None)


def test_bad_input_ends_with_one_line(corpus):
    (corpus / "empty").write_text("a\nb \n")
    for arguments, message in (
        (("none", "u"), "error: none: No such file or directory\n"),
        (("empty", "u"), "error: empty: holds no words; give a Kaldi text file with lines 'key transcript'\n"),
    ):
        result = run("make_vocabulary.py", *arguments)
        assert (result.returncode, result.stderr) == (1, message)
    assert "Traceback" in run("make_vocabulary.py", "none", "u", WENET_FUSION_TRACEBACK="1").stderr


def test_indexed_shards_are_those_that_a_scan_finds(corpus, monkeypatch):
    """A start must not scan 281 tars, and must not use a damaged index or the index of an earlier tar."""
    make_shard_list.main(["--num_utts_per_shard", "2", "wav.scp", "text", "shards", "s.list"])
    tars = sorted((corpus / "shards").glob("*.tar"))
    opened = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("scanned"))
    indexed = read_manifest("s.list", "shard")
    monkeypatch.setattr(tarfile, "open", opened)
    for damage in (
        lambda index, tar: os.utime(index, (tar.stat().st_mtime - 1,) * 2),
        lambda index, tar: index.write_text('{"tar_bytes": 1}\n'),
        lambda index, tar: index.write_text(index.read_text()[:-5]),
        lambda index, tar: index.unlink(),
    ):
        make_shard_list.main(["--num_utts_per_shard", "2", "wav.scp", "text", "shards", "s.list"])
        for tar in tars:
            damage(tar.with_name(tar.name + ".index"), tar)
        with monkeypatch.context() as patch:
            patch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("scanned"))
            with pytest.raises(pytest.fail.Exception):
                read_manifest("s.list", "shard")
        assert read_manifest("s.list", "shard") == indexed


@pytest.mark.skipif(os.name != "posix", reason="commands are bash's")
@pytest.mark.parametrize("kind", ["raw", "shard"])
def test_commands_run_where_they_are_allowed(corpus, kind):
    commands = "r0 cat r0.wav |\nr1 cat none.wav | cat |\nr2 true |\nr3/a cat r3.wav|\n"
    (corpus / "wav.scp").write_text(commands)
    (corpus / "text").write_text("r0 one\nr1 two\nr2\nr3/a three\n")
    script, outputs = (make_raw_list, ["l"]) if kind == "raw" else (make_shard_list, ["shards", "l"])
    with pytest.raises(ValueError, match="r0 is a command .*give --allow_commands if you trust the list"):
        script.main(["wav.scp", "text", *outputs])
    with pytest.raises(ValueError) as caught:
        script.main(["--allow_commands", "wav.scp", "text", *outputs])
    assert "r1: wav.scp: the command ended with status 1 (cat none.wav | cat |): cat: none.wav" in str(caught.value)
    assert "r2: wav.scp: the command wrote nothing (true |)" in str(caught.value)
    script.main(["--allow_commands", "--allow_missing", "wav.scp", "text", *outputs])
    first, last = read_manifest("l", kind)
    assert (first.key, last.key) == ("r0", "r3/a")
    assert np.array_equal(read_samples(first, RATE), soundfile.read("r0.wav", dtype="float32")[0])


def test_headers_are_read_in_processes(corpus, monkeypatch):
    monkeypatch.setattr(kaldi_corpus, "LONG_LIST", 2)
    monkeypatch.setattr(kaldi_corpus, "_PART", 2)
    expected = read_corpus(corpus / "wav.scp", corpus / "text")
    assert read_corpus(corpus / "wav.scp", corpus / "text", num_workers=2) == expected


@pytest.mark.parametrize("script", ["make_vocabulary.py", "make_raw_list.py", "make_shard_list.py"])
def test_help(script):
    assert run(script, "--help").stdout.startswith(f"usage: {script}")
