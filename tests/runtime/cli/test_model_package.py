"""tools/make_model_package.py makes packages of a model, or puts the model into the runtime."""

import gzip
import json
import sys
from pathlib import Path

import make_model_package
import pytest
from support.recipes.model_packages import ARPA, install_package, install_with_language_model, write_files
from support.runtime.fake_model import SAVERS
from wenet_fusion_runtime import installed_model
from wenet_fusion_runtime.cli.__main__ import build_parser, main
from wenet_fusion_runtime.cli.model_argument import parse_with_installed_model
from wenet_fusion_runtime.search.language_models.language_model import KENLM_BINARY

DESCRIPTION = {"file": "model.zip", "language_model": None, "lm_weight": 1, "word_bonus": 0, "sha256": 64 * "0"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_files(tmp_path)


@pytest.fixture
def package(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return install_with_language_model(files, monkeypatch)


@pytest.mark.parametrize(("content", "extras"), [(ARPA.encode(), "onnx"), (KENLM_BINARY + b" v0.1\n", "onnx,lm")])
def test_a_package_requires_what_its_files_need(
    files: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, extras: str
) -> None:
    (files / "words.lm").write_bytes(content)
    monkeypatch.setattr(make_model_package, "load_language_model", lambda path: None)  # kenlm may be missing
    folder = install_package(files, monkeypatch, "--language_model", files / "words.lm").parent
    assert f'dependencies = ["wenet-fusion-runtime[{extras}]"]' in (folder / "pyproject.toml").read_text()


def test_a_package_replaces_only_a_package(package: Path, files: Path) -> None:
    again = [str(files / "model.zip"), "--output", str(package.parent)]
    assert make_model_package.main(again) == 0
    assert sorted(path.name for path in package.iterdir()) == ["README.md", "__init__.py", "model.json", "model.zip"]
    (files / "other").mkdir()
    (files / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else than a model package; give another --output"):
        make_model_package.main([str(files / "model.zip"), "--output", str(files / "other")])
    (files / "card.md").write_text("# A card\n")
    with pytest.raises(ValueError, match="is not an exported model"):
        make_model_package.main([str(files / "card.md"), "--output", str(files / "new")])
    assert not (files / "new").exists()
    assert make_model_package.main([*again, "--card", str(files / "card.md"), "--version", "2.0"]) == 0
    assert (package / "README.md").read_text() == "# A card\n"
    assert 'version = "2.0"' in (package.parent / "pyproject.toml").read_text()


def test_a_package_is_replaced_whole_or_not_at_all(package: Path, files: Path) -> None:
    before = {path.name: path.read_bytes() for path in package.iterdir()}
    own = [str(package / "model.zip"), "--output", str(package.parent)]
    (files / "wrong.arpa").write_text("no language model")
    for wrong, message in (
        (["--language_model", str(files / "missing.arpa")], "missing.arpa"),
        (["--language_model", str(files / "wrong.arpa")], "wrong.arpa"),
        (["--beam_size", "100"], "beam_size 100 is larger than the vocabulary"),
        (["--confidence_threshold", "2"], "confidence_threshold must be 0 to 1"),
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


def test_a_plain_language_model_is_compressed(files: Path) -> None:
    (files / "words.arpa").write_text(ARPA)
    written = []
    for name in ("words.arpa", "words.arpa", "words.arpa.gz"):
        options = ["--output", str(files / "dist"), "--language_model", str(files / name)]
        assert make_model_package.main([str(files / "model.zip"), *options]) == 0
        written.append((files / "dist" / "wenet_fusion_model" / "language_model.arpa.gz").read_bytes())
    assert gzip.decompress(written[0]).decode() == ARPA and written[0] == written[1]  # packages can be compared
    assert written[2] == (files / "words.arpa.gz").read_bytes()


def test_models_of_wenet_are_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_model_package, "KINDS", ())
    with pytest.raises(ValueError, match=r"model.zip: is a .* model; a package holds a file of wenet-fusion export"):
        make_model_package.main([str(files / "model.zip"), "--output", str(files / "new")])


@pytest.fixture
def bundled(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the runtime with the model, its language model, its card and its example."""
    folder = files / "runtime" / "bundled_model"
    for module in (make_model_package, sys.modules["wenet_fusion_runtime.stream.installed_model"]):
        monkeypatch.setattr(module, "BUNDLED", folder)
    (files / "card.md").write_text("# A card\n")
    options = ["--language_model", files / "words.arpa.gz", "--card", files / "card.md", "--example", "turn it on"]
    assert make_model_package.main([str(files / "model.zip"), "--bundle", *map(str, options)]) == 0
    return folder


def served(*arguments: str) -> str | None:
    """The sentence that the page of `serve` suggests."""
    return parse_with_installed_model(build_parser(), arguments).example


def test_the_runtimes_own_model_is_used_without_a_package(
    bundled: Path, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["README.md", "language_model.arpa.gz", "model.json", "model.zip"]
    assert sorted(path.name for path in bundled.iterdir()) == names
    monkeypatch.setattr("wenet_fusion_runtime.stream.installed_model.find_spec", lambda name: None)
    assert installed_model().path == bundled / "model.zip"
    assert served("serve") == "turn it on" and served("serve", "--example", "stop") == "stop"
    assert served("serve", "--example", "") == ""
    assert served("serve", str(files / "model.zip")) is None
    capsys.readouterr()
    assert main(["info"]) == 0
    assert f"model card          {bundled / 'README.md'}\n" in capsys.readouterr().out
    (bundled / "model.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.zip: no such file; install wenet-fusion-runtime again"):
        installed_model()


def test_a_package_is_used_instead_of_the_runtimes_own_model(
    bundled: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = install_package(files, monkeypatch)
    assert bundled.exists() and installed_model().path == package / "model.zip" and installed_model().example == ""
    assert (package / "README.md").read_text() == "# wenet-fusion-model\n\nMade from model.zip.\n"


@pytest.mark.parametrize(
    ("kind", "language_model", "extras"),
    [("torchscript", ARPA.encode(), "torch"), ("onnx", KENLM_BINARY + b" v0.1\n", "onnx,lm")],
)
def test_the_runtimes_own_model_needs_only_onnxruntime(
    bundled: Path, files: Path, monkeypatch: pytest.MonkeyPatch, kind: str, language_model: bytes, extras: str
) -> None:
    before = {path.name: path.read_bytes() for path in bundled.iterdir()}
    SAVERS[kind](files / "other.zip")
    (files / "words.lm").write_bytes(language_model)
    monkeypatch.setattr(make_model_package, "load_language_model", lambda path: None)  # kenlm may be missing
    arguments = [str(files / "other.zip"), "--bundle", "--language_model", str(files / "words.lm")]
    with pytest.raises(ValueError, match=rf"--bundle: needs the runtime's extras \[{extras}\].*give an ONNX archive"):
        make_model_package.main(arguments)
    assert {path.name: path.read_bytes() for path in bundled.iterdir()} == before


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
