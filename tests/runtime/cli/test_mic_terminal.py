"""The command `mic` on a terminal and with pipes: the line that changes in place, the files after a kill."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE
from support.runtime.terminal import Session
from test_mic import PAUSE, interrupt, model, spoken  # noqa: F401  # model is a fixture
from wenet_fusion_runtime.cli import mic


@pytest.fixture
def session() -> Session:
    pytest.importorskip("termios", reason="Windows has no pseudo-terminals of this kind")
    return Session()


def test_nothing_through_the_pipe_is_one_error(
    session: Session, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert session.run(lambda: None, model, *PIPE) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and err[1].startswith("error: no audio came through the pipe")


def test_a_model_that_fails_leaves_no_half_line(
    session: Session, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        if shown.is_set():
            raise ValueError("the model's output is not a number")

    def script() -> None:
        session.feed(spoken("abcd"))
        session.wait_for("a b c")
        shown.set()
        session.feed(spoken("abcd"))

    shown, partial = threading.Event(), mic._Display.partial
    monkeypatch.setattr(mic._Display, "partial", lambda *arguments: (fail(), partial(*arguments)))
    assert session.run(script, model, *PIPE) == 1
    assert session.rows() == [] and capsys.readouterr().err.splitlines()[1].startswith("error: the model's output")


PIPE = ("--input", "-", "--rate", SAMPLE_RATE)


def test_the_line_grows_in_place_wraps_and_follows_a_resize(
    session: Session, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def script() -> None:
        session.feed(spoken("abcdabcdabcd   "))
        session.wait_for("a b c d a b c d a b c d")
        session.resize(12)
        session.feed(spoken("dddd   "))
        session.wait_for("a b c d a b", "c d a b c d", "d d d d")
        session.resize(40)

    assert session.run(script, model, *PIPE) == 0
    assert session.rows() == ["a b c d a b c d a b c d d d d d"]
    assert capsys.readouterr().err.splitlines()[0] == "listening to standard input; Ctrl-C ends"


def test_a_pause_begins_a_new_line_and_ctrl_c_ends_the_last_one(session: Session, model: Path, tmp_path: Path) -> None:
    def script() -> None:
        session.feed(spoken("abcd   "))
        session.wait_for("a b c d")
        assert b"\x1b[Ja\x1b[2m b c d\x1b[0m" in session.raw  # committed text is plain, text that may change is dim
        session.feed(spoken(PAUSE + "  abcd"))
        session.wait_for("a b c d", "a b c")  # the last chunk is not full
        interrupt()
        session.wait_for("a b c d", "a b c d")  # though the pipe has not ended

    assert session.run(script, model, *PIPE, "--save", tmp_path / "a.wav") == 0
    assert soundfile.info(tmp_path / "a.wav").frames == len(spoken("abcd   ")) + len(spoken(PAUSE + "  abcd"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_kill_leaves_the_recording(model: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "wenet_fusion_runtime.cli", "mic", str(model), *map(str, PIPE)]
    command += ["--save", str(tmp_path / "a.wav"), "--partials"]
    expected = spoken("abcd   ")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        process.stdin.write(expected.tobytes())
        process.stdin.flush()
        while b"a b c d" not in process.stdout.readline():
            assert process.poll() is None
        process.kill()
    samples = soundfile.read(tmp_path / "a.wav", dtype="int16", always_2d=True)[0]
    assert len(samples) >= len(spoken("abc")) and np.array_equal(samples, expected[: len(samples)])
