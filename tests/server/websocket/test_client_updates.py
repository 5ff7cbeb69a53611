"""Hot words that the command `client` sends during a recording."""

import argparse
import asyncio
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.server_process import ServerProcess
from wenet_fusion_runtime import HotWord
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.cli.client_display import ClientDisplay
from wenet_fusion_runtime.cli.hot_word_files import HotWordFiles
from wenet_fusion_runtime.server.session_options import HotWordUpdate, SessionOptions
from wenet_fusion_runtime.server.websocket import client_session
from wenet_fusion_runtime.server.websocket.client_session import ServerResult
from wenet_fusion_runtime.server.websocket.websocket_client import Recording, ServerAddress, recognise


class Script:
    """Returns updates one after the other, and keeps the server's refusals."""

    def __init__(self, *updates: HotWordUpdate) -> None:
        self.updates, self.refusals = list(updates), []

    def changed(self) -> HotWordUpdate | None:
        return self.updates.pop(0) if self.updates else None

    def refused(self, message: str) -> None:
        self.refusals.append(message)


def test_updates_reach_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_session, "UPDATE_SECONDS", 0.01)
    samples, results = speak("abcabcabcabc"), list[ServerResult]()
    script = Script(HotWordUpdate((HotWord("x"),), None), HotWordUpdate((HotWord("d", 40.0),), None))
    options = SessionOptions(continuous_decoding=True, sample_rate=SAMPLE_RATE, sample_format="float32")
    with ServerProcess(save_archive(tmp_path / "model.zip", sharpness=8.0)) as server:
        blocks = iter(np.array_split(samples, 20))
        address = ServerAddress(server.url)
        asyncio.run(recognise(address, Recording(blocks, is_paced=True), options, results.append, updates=script))
    assert "d" in results[-1].text and not script.updates
    (refusal,) = script.refusals
    assert refusal.startswith("1 hot word cannot be used:") and "no token is 'x'" in refusal


def test_files_are_read_again_when_they_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, context = tmp_path / "words.txt", tmp_path / "context.txt"
    words.write_text("ANNA\t2\n")
    context.write_text("first")
    files = HotWordFiles(argparse.Namespace(hot_words=words, hot_word=["OTTO=3"], context=context))
    assert files.changed() is None
    words.write_text("ANNA\t4\nMIA\tx\n")
    assert files.changed() == HotWordUpdate(
        (HotWord("ANNA", 4.0, f"{words}:1"), HotWord("OTTO", 3.0, "--hot_word")), "first"
    )
    assert "warning: " in (shown := capsys.readouterr().err) and "MIA" in shown
    assert files.changed() is None
    context.unlink()
    assert files.changed() is None  # missing while it is replaced
    context.write_bytes(b"\xff")
    os.utime(context, ns=(1, 1))
    assert files.changed() is None and "is not UTF-8" in capsys.readouterr().err
    context.write_text("then Zoe")
    found = files.changed()
    assert found is not None and found.context == "then Zoe"


@pytest.mark.slow
def test_a_later_recording_begins_with_the_files_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of hot words changes during the first recording."""
    monkeypatch.setattr(client_session, "UPDATE_SECONDS", 0.01)
    words, paths = tmp_path / "words.txt", [tmp_path / name for name in ("first.wav", "second.wav")]
    words.write_text("a\t0.1\n")
    for path in paths:
        soundfile.write(path, speak("abcabcabcabc"), SAMPLE_RATE)
    shown = ClientDisplay.result

    def result(display: ClientDisplay, found: ServerResult) -> None:
        if words.read_text() != "d\t40\n":
            words.write_text("d\t40\n")
        shown(display, found)

    monkeypatch.setattr(ClientDisplay, "result", result)
    with ServerProcess(save_archive(tmp_path / "model.zip", sharpness=8.0)) as server:
        assert main(["client", server.url, *map(str, paths), "--hot_words", str(words), "--follow"]) == 0
    (first, second) = capsys.readouterr().out.splitlines()
    assert "d" in first.partition("\t")[2] and "d" in second.partition("\t")[2].split()[0]


def test_arguments_without_effect_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "context.txt").write_text("Anna")
    assert main(["client", "localhost:1", "a.wav", "--follow"]) == 1
    assert "--follow needs a file to follow" in capsys.readouterr().err
    assert main(["client", "localhost:1", "a.wav", "--wenet", "--context", str(tmp_path / "context.txt")]) == 1
    assert "from a client, and no context" in capsys.readouterr().err
