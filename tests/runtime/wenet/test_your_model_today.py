"""The three commands of docs/from_wenet.md, "Your model, today", and `info`, on a folder of WeNet's recipe."""

import os
import re
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.recipes.scripts import run
from support.runtime.fake_sounddevice import FakeSoundDevice, FakeStream, record
from support.runtime.server_process import ServerProcess
from support.wenet.fake_wenet import RATE, FakeWenet, Shape, speak
from support.wenet.wenet_exports import save_graphs, save_script, write_recipe, write_units
from wenet_fusion_runtime.cli.__main__ import main

PAGE = Path(__file__).parents[3] / "docs" / "from_wenet.md"
FOLDER = "exp/u2pp_conformer"
READER = Shape(sharpness=4.0)
pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe's folder s0: checkpoints are beside the export, and the vocabulary is in data/dict."""
    root = tmp_path_factory.mktemp("s0")
    folder = save_script(root / FOLDER, FakeWenet(READER))
    (folder / "units.txt").unlink()
    write_units(root / "data" / "dict", name="lang_char.txt")
    write_recipe(folder, tokenizer_conf={"symbol_table_path": "data/dict/lang_char.txt"})
    torch.save({"ctc.ctc_lo.weight": torch.zeros(1)}, folder / "avg_30.pt")
    (folder / "final.pt").symlink_to("avg_30.pt")
    soundfile.write(root / "talk.wav", speak("abcd dcba"), RATE)
    return root


def commands() -> dict[str, list[str]]:
    """The arguments of each command of the section, by its verb."""
    section = PAGE.read_text(encoding="utf-8").split("## Your model, today")[1].split("\n## ")[0]
    lines = re.findall(r"^(?:\$ )?wenet-fusion-runtime (.+)$", section, re.MULTILINE)
    return {arguments[0]: arguments for arguments in map(shlex.split, lines)}


@pytest.fixture(autouse=True)
def in_the_recipe(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe)


def test_subtitles(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(commands()["transcribe"]) == 0
    text = Path("talk.srt").read_text(encoding="utf-8")
    assert text.startswith("1\n00:00:00,") and "abcddcba" in text.replace("\n", "").replace(" ", "")


def test_a_microphone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def play(stream: FakeStream) -> None:
        samples = (32767 * speak("abcd dcba")).astype(np.int16)[:, None]
        for start in range(0, len(samples), 1600):
            stream.deliver(samples[start : start + 1600])
        os.kill(os.getpid(), signal.SIGINT)

    fake = FakeSoundDevice(record("Mic", rate=RATE), plays=play)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    assert main(commands()["mic"]) == 0
    assert "abcddcba" in capsys.readouterr().out


def test_a_server_for_wenets_clients(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder, *flags = commands()["serve"]
    assert folder == FOLDER and flags == ["--port", "10086"]
    with ServerProcess(recipe / folder) as server:
        for wenet in ([], ["--wenet"]):
            assert main(["client", f"127.0.0.1:{server.port}", "talk.wav", "--fast", *wenet]) == 0
            assert capsys.readouterr().out == "abcddcba\n"


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(commands()["info"]) == 0
    found = capsys.readouterr().out
    section = PAGE.read_text(encoding="utf-8").split("$ wenet-fusion-runtime info")[1].split("```")[0]
    shown = [line for line in section.splitlines()[1:] if line and line != "..."]
    assert len(shown) > 4 and [line for line in shown if line not in found.splitlines()] == []
    for line in ("takes one row: a server steps its streams one after the other", "end after 5000 frames", "MB"):
        assert line in found
    assert "--ctm" not in found  # these files cannot have the correction
    assert "\nruns on             torch\n" in found and "quantized" not in found
    assert len(re.findall(r"^limits  +its positions end", found, re.MULTILINE)) == 1
    digest = re.search(r"^SHA-256 +(\w{64})$", found, re.MULTILINE)
    assert main(["info", FOLDER, "--require_sha256", digest[1]]) == 0
    assert main(["info", FOLDER, "--require_sha256", "0" * 64]) == 1


def test_the_toolkit_points_to_info() -> None:
    with pytest.raises(ValueError, match="final.zip: is a model of WeNet TorchScript; see wenet-fusion-runtime info"):
        run("inspect", f"{FOLDER}/final.zip")


def test_hot_words_rescoring_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    modes = ("ctc_greedy_search", "ctc_prefix_beam_search", "attention_rescoring")
    for mode in modes:
        arguments = [
            "transcribe",
            FOLDER,
            "talk.wav",
            "--mode",
            mode,
            "--format",
            "json",
            "--chunk",
            "7",
            "--left",
            "3",
        ]
        assert main([*arguments, *(["--hot_word", "abc=1"] if mode != modes[0] else [])]) == 0
        assert '"text": "abcddcba"' in capsys.readouterr().out


def test_graphs_fix_the_chunk(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_graphs(recipe / "onnx", FakeWenet(READER), 8, 2)
    assert main(["transcribe", str(folder), "talk.wav"]) == 0
    assert capsys.readouterr().out == "abcddcba\n"
    assert main(["transcribe", str(folder), "talk.wav", "--chunk", "16"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "error: chunk 16 with left context 1: the file was exported for chunks of 8 frames with 2 to"
    )
    assert main(["info", str(folder)]) == 0
    found = capsys.readouterr().out
    for text in ("WeNet ONNX", "8/2 (320 ms); default", "data (ONNX graphs)", "chunk and left context are fixed"):
        assert text in found
