"""Commands without a MODEL use the installed package; tools/make_model_package.py makes it."""

import gzip
import importlib
import json
import sys
from pathlib import Path

import make_model_package
import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, SAVERS, speak
from wenet_fusion_runtime import DecodingOptions, installed_model
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.cli.model_argument import with_installed_model

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


@pytest.mark.parametrize("command", ["transcribe", "mic", "serve", "info"])
def test_a_command_without_a_model_gets_the_installed_one(package: Path, command: str) -> None:
    rest = ["speech.wav"] if command == "transcribe" else ["--traceback"]
    words = ["--language_model", f"{package}/language_model.arpa.gz", "--lm_weight", "0.25", "--word_bonus", "0.5"]
    added = [f"{package}/model.zip", *(words if command != "info" else [])]
    assert with_installed_model([command, *rest]) == [command, *added, *rest]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    "arguments",
    [
        ["transcribe", "other.zip", "speech.wav"],
        ["transcribe", "--chunk", "8", "{files}/plain", "speech.wav"],
        ["mic", "--chunk", "8", "other.zip"],
        ["mic", "wrong.yaml"],
        ["mic", "--list_devices"],
        ["serve", "--help"],
        ["client", "speech.wav"],
        ["--version"],
        [],
    ],
)
def test_a_command_with_a_model_is_unchanged(files: Path, arguments: list[str]) -> None:
    (files / "model.zip").rename(files / "plain")  # an archive is a model under any name
    given = [each.replace("{files}", str(files)) for each in arguments]
    assert with_installed_model(given) == given


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("option", [["--mode", "ctc_greedy_search"], ["--language_model", "mine.arpa"]])
def test_the_language_model_is_left_out_where_it_does_not_belong(option: list[str]) -> None:
    found = with_installed_model(["transcribe", "speech.wav", *option])
    assert sum(each.endswith(".arpa.gz") for each in found) == 0 and found[2:] == ["speech.wav", *option]


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


@pytest.mark.parametrize("arguments", [["transcribe", "speech.wav"], ["mic"], ["serve", "--traceback"], ["info"]])
def test_without_an_installed_model_the_remedy_is_told(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wenet_fusion_model", None)
    monkeypatch.setattr("wenet_fusion_runtime.stream.installed_model.find_spec", lambda name: None)
    assert main(arguments) == 1
    assert "no model is installed (the package wenet_fusion_model): name a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"model.json: is damaged .*; install wenet_fusion_model again"),
        ("{}", r"model.json: is damaged \('language_model'\)"),
        (json.dumps({"file": "x.zip", "language_model": None, "lm_weight": 1, "word_bonus": 0}), "x.zip: no such file"),
        (None, r"model.json: no such file; install wenet_fusion_model again"),
    ],
)
def test_damaged_packages_are_named(package: Path, content: str | None, message: str) -> None:
    (package / "model.json").unlink()
    if content is not None:
        (package / "model.json").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        installed_model()


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
