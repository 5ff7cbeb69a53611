"""Commands without a MODEL use the installed one."""

import argparse
import os
import sys
from pathlib import Path

import pytest
from support.recipes.model_packages import install_package, install_with_language_model, write_files
from wenet_fusion_runtime import DecodingOptions, installed_model
from wenet_fusion_runtime.cli.__main__ import build_parser, main
from wenet_fusion_runtime.cli.model_argument import parse_with_installed_model


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_files(tmp_path)


@pytest.fixture
def package(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return install_with_language_model(files, monkeypatch)


def test_an_installed_model_is_found_with_its_weights(package: Path, files: Path) -> None:
    found = installed_model()
    assert found.path.read_bytes() == (files / "model.zip").read_bytes()
    assert found.language_model == package / "language_model.arpa.gz"
    assert (found.lm_weight, found.word_bonus, found.unknown_word_penalty) == (0.25, 0.5, 0.75)
    assert found.confidence_threshold == 0.125 and found.beam_size == 3
    options = found.recognizer(DecodingOptions(beam_size=2)).options
    assert (options.lm_weight, options.word_bonus, options.unknown_word_penalty) == (0.25, 0.5, 0.75)
    assert options.beam_size == 2 and found.recognizer().options.beam_size == 3
    assert options.confidence_threshold == 0.125
    for own in (0.0, 0.5):
        assert found.recognizer(DecodingOptions(confidence_threshold=own)).options.confidence_threshold == own
    assert options.language_model is not None and list(options.language_model.words) == ["a"]


def parsed(*arguments: str) -> argparse.Namespace:
    return parse_with_installed_model(build_parser(), arguments)


@pytest.mark.parametrize("command", ["transcribe", "mic", "serve", "info"])
def test_a_command_without_a_model_gets_the_installed_one(package: Path, command: str) -> None:
    options = parsed(command, *(["speech.wav"] if command == "transcribe" else []), "--traceback")
    assert options.model == package / "model.zip" and options.traceback
    if command != "info":
        found = (options.language_model, options.lm_weight, options.word_bonus, options.unknown_word_penalty)
        assert found == (package / "language_model.arpa.gz", 0.25, 0.5, 0.75)
    assert command != "transcribe" or options.files == [Path("speech.wav")]


@pytest.mark.parametrize(
    ("arguments", "recordings"),
    [
        (["a.wav", "b.wav"], ["a.wav", "b.wav"]),
        (["a.wav", "x.zip", "--output", "all.zip"], ["a.wav", "x.zip"]),  # only the first word can be the MODEL
        (["--output=all.zip", "--outp", "all.zip", "a.wav"], ["a.wav"]),
        (["--chunk", "8", "--", "-a.wav"], ["-a.wav"]),
        (["Aufnahme 1 ä.wav"], ["Aufnahme 1 ä.wav"]),
    ],
)
def test_all_words_are_recordings_if_the_first_is_no_model(
    package: Path, arguments: list[str], recordings: list[str]
) -> None:
    options = parsed("transcribe", *arguments)
    assert options.model == package / "model.zip" and options.files == [Path(each) for each in recordings]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        (["transcribe", "other.zip", "speech.wav"], "other.zip"),
        (["transcribe", "--chunk", "8", "{files}/plain", "speech.wav"], "{files}/plain"),
        (["transcribe", "{files}/wenet", "speech.wav", "--mode=ctc_greedy_search"], "{files}/wenet"),
        (["mic", "--chunk", "8", "other.zip"], "other.zip"),
        (["mic", "--chunk", "8", "wrong.yaml"], "wrong.yaml"),
        (["serve", "wrong.yaml", "--port", "0"], "wrong.yaml"),
    ],
)
def test_a_named_model_is_used_without_the_installed_language_model(
    files: Path, arguments: list[str], model: str
) -> None:
    (files / "wenet").mkdir()
    (files / "wenet" / "final.zip").touch()
    (files / "model.zip").rename(files / "plain")  # an archive is a model under any name
    options = parsed(*(each.replace("{files}", str(files)) for each in arguments))
    assert options.model == Path(model.replace("{files}", str(files)))
    assert options.language_model is None and options.lm_weight is None and options.word_bonus is None


@pytest.mark.parametrize("arguments", [["mic", "--list_dev"], ["serve", "--help"], ["info", "-h"], ["--help"], []])
def test_help_and_the_list_of_devices_need_no_model(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wenet_fusion_runtime.cli.model_argument.installed_model", None)
    with pytest.raises(SystemExit):
        parsed(*arguments)


@pytest.mark.parametrize(
    ("option", "language_model", "weight"),
    [
        (["--mode", "ctc_greedy_search"], None, None),
        (["--mode=ctc_greedy_search"], None, None),
        (["--language_model", "mine.arpa"], "mine.arpa", None),
        (["--la=mine.arpa"], "mine.arpa", None),
        (["--lm_weight", "0.75"], "{package}/language_model.arpa.gz", 0.75),
        (["--mode", "ctc_greedy_search", "--mode", "ctc_prefix_beam_search"], "{package}/language_model.arpa.gz", 0.25),
    ],
)
def test_options_replace_the_installed_language_model_and_its_weights(
    package: Path, option: list[str], language_model: str | None, weight: float | None
) -> None:
    options = parsed("transcribe", "speech.wav", *option)
    expected = None if language_model is None else Path(language_model.replace("{package}", str(package)))
    assert (options.language_model, options.lm_weight) == (expected, weight)
    assert options.word_bonus == (0.5 if weight else None)
    assert (options.confidence_threshold, options.beam_size) == (0.125, 3)
    assert parsed("transcribe", "speech.wav", *option, "--confidence_threshold", "0").confidence_threshold == 0


def test_greedy_search_in_python_uses_no_language_model(package: Path) -> None:
    options = installed_model().recognizer(DecodingOptions(mode="ctc_greedy_search")).options
    assert options.language_model is None


@pytest.mark.usefixtures("package")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipes_are_not_opened_in_search_of_a_model(files: Path) -> None:
    os.mkfifo(files / "pipe")
    assert parsed("transcribe", str(files / "pipe")).files == [files / "pipe"]  # opening it would wait for a writer


def test_files_are_transcribed_without_naming_a_model(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_package(files, monkeypatch)
    capsys.readouterr()
    assert main(["transcribe", str(files / "speech.wav")]) == 0
    assert main(["transcribe", str(files / "model.zip"), str(files / "speech.wav")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second != ""
    assert main(["info"]) == 0 and "wenet_fusion_model" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["transcribe", "speech.wav", "--chunk", "8"], ["mic", "--seconds", "5"], ["serve"], ["info"]]
)
def test_without_an_installed_model_the_error_names_the_remedy(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wenet_fusion_model", None)
    monkeypatch.setattr("wenet_fusion_runtime.stream.installed_model.find_spec", lambda name: None)
    monkeypatch.setattr("wenet_fusion_runtime.stream.installed_model.BUNDLED", Path("missing"))
    assert main(arguments) == 1
    assert "no model is installed (the package wenet_fusion_model): name a file" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        main([*arguments, "--traceback"])
    with pytest.raises(SystemExit):  # which tells that FILE is missing
        main(["transcribe", "model.zip"])
