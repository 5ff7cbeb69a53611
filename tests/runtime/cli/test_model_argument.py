"""Commands without a MODEL use the installed package; tools/make_model_package.py makes it."""

import argparse
import gzip
import importlib
import json
import os
import sys
from pathlib import Path

import make_model_package
import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, SAVERS, speak
from wenet_fusion_runtime import DecodingOptions, installed_model
from wenet_fusion_runtime.cli.__main__ import build_parser, main
from wenet_fusion_runtime.cli.model_argument import parse_with_installed_model
from wenet_fusion_runtime.search.language_models.language_model import KENLM_BINARY

DESCRIPTION = {"file": "model.zip", "language_model": None, "lm_weight": 1, "word_bonus": 0, "sha256": 64 * "0"}
ARPA = """\\data\\
ngram 1=4

\\1-grams:
-1.0 <s>
-1.0 </s>
-1.0 <unk>
-1.0 a

\\end\\
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A model, a recording and a language model."""
    SAVERS["onnx"](tmp_path / "model.zip")
    soundfile.write(tmp_path / "speech.wav", speak("abc"), SAMPLE_RATE)
    (tmp_path / "words.arpa.gz").write_bytes(gzip.compress(ARPA.encode()))
    return tmp_path


@pytest.fixture
def package(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the model and the language model that Python finds."""
    options = ["--language_model", files / "words.arpa.gz", "--lm_weight", 0.25, "--word_bonus", 0.5]
    return make(files, monkeypatch, *options)


def make(files: Path, monkeypatch: pytest.MonkeyPatch, *options: object) -> Path:
    folder = files / "dist"
    assert make_model_package.main([str(files / "model.zip"), "--output", str(folder), *map(str, options)]) == 0
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    return folder / "wenet_fusion_model"


def test_an_installed_model_is_found_with_its_weights(package: Path, files: Path) -> None:
    found = installed_model()
    assert found.path.read_bytes() == (files / "model.zip").read_bytes()
    assert found.language_model == package / "language_model.arpa.gz"
    assert (found.lm_weight, found.word_bonus) == (0.25, 0.5)
    options = found.recognizer(DecodingOptions(beam_size=2)).options
    assert (options.lm_weight, options.word_bonus, options.beam_size) == (0.25, 0.5, 2)
    assert options.language_model is not None and list(options.language_model.words) == ["a"]


def parsed(*arguments: str) -> argparse.Namespace:
    return parse_with_installed_model(build_parser(), arguments)


@pytest.mark.parametrize("command", ["transcribe", "mic", "serve", "info"])
def test_a_command_without_a_model_gets_the_installed_one(package: Path, command: str) -> None:
    options = parsed(command, *(["speech.wav"] if command == "transcribe" else []), "--traceback")
    assert options.model == package / "model.zip" and options.traceback
    if command != "info":
        found = (options.language_model, options.lm_weight, options.word_bonus)
        assert found == (package / "language_model.arpa.gz", 0.25, 0.5)
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
    make(files, monkeypatch)
    capsys.readouterr()
    assert main(["transcribe", str(files / "speech.wav")]) == 0
    assert main(["transcribe", str(files / "model.zip"), str(files / "speech.wav")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second != ""
    assert main(["info"]) == 0 and "wenet_fusion_model" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["transcribe", "speech.wav", "--chunk", "8"], ["mic", "--seconds", "5"], ["serve"], ["info"]]
)
def test_without_an_installed_model_the_remedy_is_told(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wenet_fusion_model", None)
    monkeypatch.setattr("wenet_fusion_runtime.stream.installed_model.find_spec", lambda name: None)
    assert main(arguments) == 1
    assert "no model is installed (the package wenet_fusion_model): name a file" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        main([*arguments, "--traceback"])
    with pytest.raises(SystemExit):  # which tells that FILE is missing
        main(["transcribe", "model.zip"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"model.json: is damaged .*; install wenet_fusion_model again"),
        ("{}", r"model.json: is damaged \('language_model'\)"),
        (json.dumps({**DESCRIPTION, "file": "x.zip"}), "x.zip: no such file"),
        (None, r"model.json: no such file; install wenet_fusion_model again"),
    ],
)
def test_damaged_packages_are_named(package: Path, content: str | None, message: str) -> None:
    (package / "model.json").unlink()
    if content is not None:
        (package / "model.json").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        installed_model()


def test_info_finds_a_changed_file(package: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    (package / "model.json").write_text(json.dumps(DESCRIPTION))
    assert main(["transcribe", str(files / "speech.wav")]) == 0  # a start does not read the file twice
    assert main(["info"]) == 1
    message = capsys.readouterr().err
    assert f"{package / 'model.zip'}: its SHA-256 is " in message
    assert f"says {64 * '0'}: the file was changed or is damaged; install wenet_fusion_model again" in message


@pytest.mark.parametrize(("content", "extras"), [(ARPA.encode(), "onnx"), (KENLM_BINARY + b" v0.1\n", "onnx,lm")])
def test_a_package_requires_what_its_files_need(
    files: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, extras: str
) -> None:
    (files / "words.lm").write_bytes(content)
    monkeypatch.setattr(make_model_package, "load_language_model", lambda path: None)  # kenlm may be missing
    folder = make(files, monkeypatch, "--language_model", files / "words.lm").parent
    assert f'dependencies = ["wenet-fusion-runtime[{extras}]"]' in (folder / "pyproject.toml").read_text()


def test_a_package_replaces_only_a_package(package: Path, files: Path) -> None:
    again = [str(files / "model.zip"), "--output", str(package.parent)]
    assert make_model_package.main(again) == 0
    assert sorted(path.name for path in package.iterdir()) == ["__init__.py", "model.json", "model.zip"]
    (files / "other").mkdir()
    (files / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else than a model package; give another --output"):
        make_model_package.main([str(files / "model.zip"), "--output", str(files / "other")])
    (files / "card.md").write_text("# A card\n")
    with pytest.raises(ValueError, match="is not an exported model"):
        make_model_package.main([str(files / "card.md"), "--output", str(files / "new")])
    assert not (files / "new").exists()
    assert make_model_package.main([*again, "--card", str(files / "card.md"), "--version", "2.0"]) == 0
    assert (package.parent / "README.md").read_text() == "# A card\n"
    assert 'version = "2.0"' in (package.parent / "pyproject.toml").read_text()


def test_a_package_is_replaced_whole_or_not_at_all(package: Path, files: Path) -> None:
    before = {path.name: path.read_bytes() for path in package.iterdir()}
    own = [str(package / "model.zip"), "--output", str(package.parent)]
    (files / "wrong.arpa").write_text("no language model")
    for wrong, message in (
        (["--language_model", str(files / "missing.arpa")], "missing.arpa"),
        (["--language_model", str(files / "wrong.arpa")], "wrong.arpa"),
        (["--word_bonus", "1"], "--word_bonus: no effect without --language_model FILE"),
        (["--language_model", str(package / "language_model.arpa.gz"), "--lm_weight=-1"], "lm_weight must be 0 to"),
    ):
        with pytest.raises((OSError, ValueError), match=message):
            make_model_package.main([*own, *wrong])
    assert {path.name: path.read_bytes() for path in package.iterdir()} == before
    language_model = str(package / "language_model.arpa.gz")  # the package's own files are not lost
    assert make_model_package.main([*own, "--language_model", language_model, "--lm_weight", "0.75"]) == 0
    assert installed_model().lm_weight == 0.75
    after = {path.name: path.read_bytes() for path in package.iterdir()}
    assert {**before, "model.json": b""} == {**after, "model.json": b""}


def test_models_of_wenet_are_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_model_package, "KINDS", ())
    with pytest.raises(ValueError, match=r"model.zip: is a .* model; a package holds a file of wenet-fusion export"):
        make_model_package.main([str(files / "model.zip"), "--output", str(files / "new")])
