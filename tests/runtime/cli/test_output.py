"""`transcribe --format --output`: the destination of text; files appear whole or not at all."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, save_model, speak
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.cli.output import Destination


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("output")
    save_model(path / "model.pt")
    (path / "other").mkdir()
    for name, text in (("one.wav", "abc"), ("two words.wav", "dd a"), ("other/one.wav", "d")):
        soundfile.write(path / name, speak(text), SAMPLE_RATE)
    whole = (path / "one.wav").read_bytes()
    (path / "cut.wav").write_bytes(whole[: len(whole) * 2 // 3])
    (path / "broken.wav").write_bytes(b"no audio")
    soundfile.write(path / "header.wav", np.zeros(0), SAMPLE_RATE)
    return path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> tuple[int, str, str]:
        """Run `transcribe` on files of `folder`, given by name; return status, stdout and stderr."""
        names = [str(folder / str(a)) if str(a).endswith(".wav") else str(a) for a in arguments]
        status = main(["transcribe", str(folder / "model.pt"), *names])
        return status, *capsys.readouterr()

    return run


def test_every_format_on_standard_output(folder: Path, run) -> None:
    assert run("one.wav", "--format", "text")[1] == "a b c\n"
    record = json.loads(run("one.wav", "--format", "json")[1])
    assert (record["text"], record["endpoint"], len(record["words"])) == ("a b c", "end_of_audio", 3)
    lines = run("one.wav", "two words.wav", "--format", "ctm")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["one"] * 3 + ["two_words"] * 3
    assert [line.split()[4] for line in lines] == ["a", "b", "c", "d", "d", "a"]
    assert run("one.wav", "--format", "srt")[1] == "1\n00:00:00,080 --> 00:00:01,080\na b c\n\n"
    assert run("one.wav", "--format", "vtt")[1] == "WEBVTT\n\n00:00:00.080 --> 00:00:01.080\na b c\n\n"


def test_a_folder_gets_a_file_for_each_recording(run, tmp_path: Path) -> None:
    for form, suffix in (("text", "txt"), ("json", "jsonl"), ("ctm", "ctm"), ("srt", "srt"), ("vtt", "vtt")):
        for output in (f"{tmp_path}/new-{form}/deep/", tmp_path):
            status, out, err = run("one.wav", "two words.wav", "--format", form, "--output", output)
            assert (status, out, err) == (0, "", "")
            names = {path.name for path in Path(output).iterdir() if path.suffix == f".{suffix}"}
            assert names == {f"one.{suffix}", f"two words.{suffix}"}
    assert (tmp_path / "one.txt").read_text() == "a b c\n", "not named: the file's name says it"
    assert (tmp_path / "two words.srt").read_text().startswith("1\n00:00:00,080 --> ")
    missing = tmp_path / "missing"
    assert (
        run("one.wav", "two words.wav", "--format", "vtt", "--output", missing)[0] == 0
        and len(list(missing.iterdir())) == 2
    )


def test_one_file_for_all(folder: Path, run, tmp_path: Path) -> None:
    target = tmp_path / "all"
    assert run("one.wav", "two words.wav", "--output", target) == (0, "", "")
    assert target.read_text() == f"{folder}/one.wav\ta b c\n{folder}/two words.wav\td d a\n"
    assert run("one.wav", "other/one.wav", "--format", "ctm", "--output", target)[0] == 0
    assert {line.split()[0] for line in target.read_text().splitlines()} == {f"{folder}/one", f"{folder}/other/one"}
    shutil.copy(folder / "one.wav", tmp_path / "one.wav")
    soundfile.write(tmp_path / "one.flac", *soundfile.read(folder / "one.wav"))
    both = [str(tmp_path / name) for name in ("one.wav", "one.flac")]
    assert run(*both, "--format", "ctm", "--output", target)[0] == 0
    assert {line.split()[0] for line in target.read_text().splitlines()} == set(both)
    for path in both:
        Path(path).unlink()
    assert run("one.wav", "--format", "json", "--partials", "--output", target)[0] == 0
    records = [json.loads(line) for line in target.read_text().splitlines()]
    assert [record.get("committed") is None for record in records] == [False] * (len(records) - 1) + [True]
    assert [path.name for path in tmp_path.iterdir()] == ["all"], "nothing temporary is left"


def test_failed_recordings_leave_no_file_and_damaged_ones_their_beginning(folder: Path, run, tmp_path: Path) -> None:
    names = ("broken.wav", "header.wav", "cut.wav", "one.wav")
    status, _, err = run(*names, "--output", f"{tmp_path}/")
    assert status == 1 and err.count("error: ") == 4 and "3 of 4 files could not be transcribed to their end" in err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"cut.txt": "a b\n", "one.txt": "a b c\n"}
    old = tmp_path / "old"
    old.write_text("as it was")
    assert run("broken.wav", "--output", old)[0] == 1 and old.read_text() == "as it was"
    assert run("header.wav", "--format", "vtt")[1] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.txt", "old", "one.txt"]


def test_pipes_and_devices_stay_what_they_are(run) -> None:
    assert run("one.wav", "--output", os.devnull) == (0, "", "")
    assert Path(os.devnull).is_char_device()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_ends_the_command(run) -> None:
    status, out, err = run("one.wav", "two words.wav", "--output", "/dev/full")
    assert (status, out, err) == (
        1,
        "",
        "error: /dev/full: cannot be written (No space left on device); free some space, or name another place\n",
    )


def test_an_interrupted_command_leaves_the_old_file(folder: Path, run, tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "all.txt"
    target.write_text("old")
    monkeypatch.setattr("wenet_fusion_runtime.stream.stream.Stream.finish", lambda stream: [][1])
    for output in (target, tmp_path):
        with pytest.raises(IndexError):
            run("one.wav", "--output", output)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("all.txt", "old")]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["one.wav", "cut.wav", "--format", "srt"], "a .srt file holds one recording; give --output FOLDER/"),
        (["one.wav", "cut.wav", "--format", "vtt", "--output", "{}/file"], "file: is a file and a .vtt file holds one"),
        (["one.wav", "other/one.wav", "--output", "{}/"], "other/one.wav would both be written to {}/one.txt"),
        (
            ["one.wav", "--output", "{}/missing/out.txt"],
            "missing/out.txt: cannot be written (No such file or directory)",
        ),
        (["one.wav", "--output", "{}/file/"], "file: cannot be written (File exists)"),
        (["one.wav", "--output", "{}/file/out.txt"], "cannot be written (Not a directory)"),
        (["one.wav", "--output", "{here}/one.wav"], "one.wav: is read by this command; write to another file"),
        (["one.wav", "--output", "{here}/model.pt"], "model.pt: is read by this command; write to another file"),
        (["one.wav", "--format", "srt", "--partials"], "--partials goes with --format text or json, not with srt"),
        (["one.wav", "--rule1_seconds", "-1"], "rule1_seconds must be positive, or None for never, found -1"),
        (["one.wav", "--silence_probability", "2"], "silence_probability must lie between 0 and 1"),
    ],
)
def test_wrong_places_and_values_give_one_line(
    run, folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "file").write_text("")
    filled = [argument.replace("{here}", str(folder)).replace("{}", str(tmp_path)) for argument in arguments]
    status, out, err = run(*filled)
    assert status == 1 and out == "" and err.count("\n") == 1 and err.startswith("error: ")
    assert message.replace("{}", str(tmp_path)) in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (folder / "model.pt").stat().st_size > 1000


def test_a_folder_that_cannot_be_written_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write everywhere
    with pytest.raises(OSError, match="cannot be written \\(Permission denied\\)"):
        Destination(f"{tmp_path}/", [Path("a.wav")], ".txt", False, [])


@pytest.mark.parametrize("arguments", [["--format", "doc"], ["--rule2_seconds", "soon"]])
def test_unknown_values_of_flags_end_the_command(run, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("one.wav", *arguments)
    err = capsys.readouterr().err
    assert "invalid choice: 'doc'" in err or "expected a number or 'off', found 'soon'" in err


def test_endpoint_flags_close_segments(folder: Path, run) -> None:
    pause = np.concatenate([speak("ab"), np.zeros(SAMPLE_RATE), speak("c"), np.zeros(4 * SAMPLE_RATE)])
    soundfile.write(folder / "pause.wav", pause, SAMPLE_RATE)

    def endpoints(*flags: str) -> list[tuple[str, str]]:
        out = run("pause.wav", "--format", "json", *flags)[1]
        return [(record["endpoint"], record["text"]) for record in map(json.loads, out.splitlines())]

    assert endpoints() == [("end_of_audio", "a b c")]
    assert endpoints("--rule2_seconds", "0.6") == [("rule2", "a b"), ("rule2", "c"), ("end_of_audio", "")]
    both = endpoints("--rule1_seconds", "1.5", "--rule2_seconds", "0.6")
    assert both == [("rule2", "a b"), ("rule2", "c"), ("rule1", ""), ("rule1", ""), ("end_of_audio", "")]
    assert endpoints("--rule2_seconds", "off", "--rule3_seconds", "1") == [
        ("rule3", "a b"), ("rule3", "c"), ("rule3", ""), ("rule3", ""), ("rule3", ""), ("end_of_audio", "")
    ]  # fmt: skip
