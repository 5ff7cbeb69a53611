"""The command wenet-fusion-runtime: its output and its errors."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, SAVERS, save_model, speak
from wenet_fusion_runtime.cli.__main__ import build_parser, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    save_model(path / "model.pt")
    for kind, save in SAVERS.items():
        save(path / kind)
    for name, text in (("one.wav", "abc"), ("two.flac", "dd a"), ("silence.wav", "    ")):
        soundfile.write(path / name, speak(text), SAMPLE_RATE)
    (path / "broken.wav").write_bytes(b"no audio")
    return path


@pytest.mark.parametrize("kind", SAVERS)
def test_one_file_gives_its_text(folder: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", str(folder / kind), str(folder / "one.wav")]) == 0
    assert capsys.readouterr() == ("a b c\n", "")


def test_several_files_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(folder / name) for name in ("one.wav", "two.flac", "silence.wav")]
    assert main(["transcribe", str(folder / "model.pt"), *files, "--chunk", "4", "--mode", "ctc_greedy_search"]) == 0
    assert capsys.readouterr().out == "".join(f"{file}\t{text}\n" for file, text in zip(files, ("a b c", "d d a", "")))


def test_bad_files_are_reported_and_counted_and_the_others_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("missing.wav", "broken.wav", "one.wav")
    assert main(["transcribe", str(folder / "model.pt"), *(str(folder / name) for name in names)]) == 1
    out, err = capsys.readouterr()
    assert out == f"{folder / 'one.wav'}\ta b c\n"
    lines = err.splitlines()
    assert lines[0] == f"error: {folder / 'missing.wav'}: no such audio file"
    assert lines[1].startswith(f"error: {folder / 'broken.wav'}: cannot be read as audio")
    assert lines[2] == "error: 2 of 3 files could not be transcribed to their end"


def test_json_has_one_object_per_segment(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(folder / "long.wav", speak("abcd" * 4), SAMPLE_RATE)
    command = [
        "transcribe",
        str(folder / "model.pt"),
        str(folder / "long.wav"),
        "--format",
        "json",
        "--rule3_seconds",
        "1",
    ]
    assert main(command) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["segment"] for record in records] == list(range(len(records)))
    assert " ".join(record["text"] for record in records if record["text"]) == "a b c d " * 3 + "a b c d"
    first = records[0]["tokens"][0]
    assert (first["text"], first["id"], first["start"], first["end"]) == ("a", 3, 0.08, 0.12)
    assert 0.9 < first["confidence"] <= 1


def test_partials_are_lines_when_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", str(folder / "model.pt"), str(folder / "one.wav"), "--partials"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["... a b", "... a b c", "a b c"]
    assert (
        main(["transcribe", str(folder / "model.pt"), str(folder / "one.wav"), "--partials", "--format", "json"]) == 0
    )
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert records[0]["partial"] == "a b" and records[-1]["text"] == "a b c"


def test_partials_appear_in_place_on_a_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "4")
    monkeypatch.setenv("TERM", "xterm")
    assert main(["transcribe", str(folder / "model.pt"), str(folder / "one.wav")]) == 0
    shown = capsys.readouterr().out.split("\r\033[J")
    assert shown == ["a b", "a b \r\nc\033[1A", "a b c\n"]  # wrapped at the width, then cleared for the whole text


def test_real_time_waits_for_the_audio(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    clock = [0.0]
    monkeypatch.setattr("wenet_fusion_runtime.cli.transcribe.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("wenet_fusion_runtime.cli.transcribe.time.sleep", lambda seconds: slept.append(seconds))
    assert main(["transcribe", str(folder / "model.pt"), str(folder / "one.wav"), "--real_time"]) == 0
    assert slept[-1] == pytest.approx(len(speak("abc")) / SAMPLE_RATE)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{}/missing.pt", "{}/one.wav"], "missing.pt: no such model file"),
        (["{}/one.wav", "{}/one.wav"], "one.wav: is not an exported model"),
        (
            ["{}/model.pt", "{}/one.wav", "--chunk", "5"],
            "chunk 5 with left context 4: the model was not trained for it; choose one of 4/4, 8/2",
        ),
        (["{}/model.pt", "{}/one.wav", "--beam_size", "0"], "beam_size must be at least 1, found 0"),
    ],
)
def test_user_errors_give_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    arguments = ["transcribe", *(argument.format(folder) for argument in arguments)]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1
    with pytest.raises((ValueError, OSError)):
        main([*arguments, "--traceback"])


@pytest.mark.parametrize("kind, engine", [("torchscript", "torch"), ("onnx", "onnxruntime")])
def test_info_describes_the_model(folder: Path, kind: str, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder / kind)]) == 0
    out = capsys.readouterr().out
    for part in (
        f"runs on             {engine}\n",
        "8000 Hz",
        "4/4 (160 ms), 8/2 (320 ms); default 8/2",
        "7 tokens",
        "right padding       100 ms\n",
        "encoder frame       40 ms\n",
        "float32",
        "left-to-right, right-to-left",
        "longest_wait_ms 320\n",
        "verification",
    ):
        assert part in out
    assert "{" not in out, "tables are written as text"
    assert main(["info", str(folder / "broken.wav")]) == 1
    assert "is not an exported model" in capsys.readouterr().err


def test_a_closed_pipe_gives_no_traceback(folder: Path) -> None:
    files = [str(folder / "one.wav")] * 20
    program = [sys.executable, "-m", "wenet_fusion_runtime.cli"]
    command = [*program, "transcribe", str(folder / "model.pt"), *files, "--partials"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1 and "Traceback" not in errors and "Broken" not in errors


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (([], "transcribe"), (["transcribe"], "--real_time"), (["info"], "MODEL")):
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--help"])
        assert end.value.code == 0 and expected in capsys.readouterr().out


@pytest.mark.parametrize("name", ["transcribe", "mic", "serve", "client", "info"])
def test_help_opens_with_a_sentence_and_ends_with_examples_that_parse(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    _, opening, *_ = shown.split("\n\n")
    assert re.match(r"[A-Z][^.]+\.", opening), opening
    examples = shown[shown.index("\nexamples:\n") :].splitlines()[2:]
    assert examples
    for example in examples:
        *_, command = example.split("wenet-fusion-runtime ")
        assert build_parser().parse_args(shlex.split(command)).run is not None
    for option in re.findall(r"^  (--\w+)", shown, re.MULTILINE):
        found = re.search(rf"^  {option}\b[^\n]*?(?:\n +| {{2,}})(?=\w)(.)", shown, re.MULTILINE)
        assert found, f"{option} has a help text"


def test_audio_damaged_in_its_middle_fails_that_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(folder / "damaged.flac", np.tile(speak("abcd"), 3), SAMPLE_RATE)
    content = bytearray((folder / "damaged.flac").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    (folder / "damaged.flac").write_bytes(content)
    assert main(["transcribe", str(folder / "model.pt"), str(folder / "damaged.flac")]) == 1
    out, err = capsys.readouterr()
    assert "damaged.flac: is damaged" in err and "Traceback" not in err
    assert out.startswith("a b c d") and len(out.split()) < 12 and out.count("\n") == 1


def test_the_text_before_an_early_end_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (folder / "one.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) * 2 // 3])
    for arguments, expected in (([], "a b\n"), (["--format", "json"], '"text": "a b"')):
        assert main(["transcribe", str(folder / "model.pt"), str(folder / "cut.wav"), *arguments]) == 1
        out, err = capsys.readouterr()
        assert expected in out and err.startswith(f"error: {folder / 'cut.wav'}: is damaged or ends too early")
    with pytest.raises(ValueError, match="ends too early"):
        main(["transcribe", str(folder / "model.pt"), str(folder / "cut.wav"), "--traceback"])
    capsys.readouterr()
    soundfile.write(folder / "header.wav", np.zeros(0), SAMPLE_RATE)
    assert main(["transcribe", str(folder / "model.pt"), str(folder / "header.wav")]) == 1
    assert capsys.readouterr() == ("", f"error: {folder / 'header.wav'}: has no samples\n")
