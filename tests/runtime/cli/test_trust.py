"""TorchScript files are programs: `info` says so, and --require_sha256 prevents running other files."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, SAVERS, speak
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.model import model_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of each kind, and a recording."""
    path = tmp_path_factory.mktemp("trust")
    for kind, save in SAVERS.items():
        save(path / f"{kind}.zip")
    soundfile.write(path / "speech.wav", speak("abc"), SAMPLE_RATE)
    return path


@pytest.mark.parametrize(
    "kind, contains",
    [
        ("torchscript", "a program (TorchScript): load only files that you trust, and pin them with --require_sha256"),
        ("onnx", "data (ONNX graphs)"),
    ],
)
def test_info_says_whether_a_file_is_a_program(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str, contains: str
) -> None:
    path = folder / f"{kind}.zip"
    assert main(["info", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{'SHA-256':<19} {hashlib.sha256(path.read_bytes()).hexdigest()}" in lines
    assert f"{'contains':<19} {contains}" in lines


def commands(folder: Path, path: Path) -> list[list[str]]:
    """A command of each kind that loads or reads a model file."""
    return [
        ["transcribe", str(path), str(folder / "speech.wav")],
        ["serve", str(path), "--port", "0"],
        ["mic", str(path), "--input", "-"],
        ["info", str(path)],
    ]


@pytest.mark.parametrize("kind", SAVERS)
def test_nothing_of_a_file_with_another_checksum_is_read(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = folder / f"{kind}.zip"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def opened(*_: object) -> None:
        raise AssertionError("the file was opened")

    monkeypatch.setattr(model_file.zipfile, "ZipFile", opened)
    for command in commands(folder, path):
        assert main([*command, "--require_sha256", "f" * 64]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert err.startswith(f"error: {path}: its SHA-256 is {digest}, expected {'f' * 64}: it is another file")
        assert main([*command, "--require_sha256", "deadbeef"]) == 1
        assert "'deadbeef' is not a SHA-256: give 64 hexadecimal digits" in capsys.readouterr().err


@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_a_file_with_the_required_checksum_is_used(
    folder: Path, capsys: pytest.CaptureFixture[str], change: Callable[[str], str]
) -> None:
    path = folder / "torchscript.zip"
    digest = change(hashlib.sha256(path.read_bytes()).hexdigest())
    assert main(["transcribe", str(path), str(folder / "speech.wav"), "--require_sha256", digest]) == 0
    assert capsys.readouterr().out == "a b c\n"
