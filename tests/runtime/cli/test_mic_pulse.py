"""The command `mic` on a real audio stack: speech played into a virtual microphone is recognised."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import absent
from support.model.tones import write_speech
from virtual_microphone import RATE, VirtualMicrophone, missing, write_room
from virtual_microphone import main as play_into
from wenet_fusion_runtime.cli.__main__ import main

PROGRAM = [sys.executable, "-m", "wenet_fusion_runtime.cli"]
WORDS = "two one three three one two".split()


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording at the device's rate, which is not the model's."""
    return write_speech(tmp_path_factory.mktemp("speech") / "speech.wav", WORDS, RATE)


@pytest.fixture(scope="module")
def background(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_room(tmp_path_factory.mktemp("background") / "noise.wav", 60.0)


@pytest.fixture
def virtual_microphone(background: Path, tmp_path: Path) -> Iterator[VirtualMicrophone]:
    if reason := missing():
        absent(reason, "WENET_FUSION_REQUIRE_AUDIO")
    with VirtualMicrophone(tmp_path / "pulse", background) as microphone:
        yield microphone


class Session:
    """The command in a process of its own, listening."""

    def __init__(self, microphone: VirtualMicrophone, folder: Path, *arguments: object) -> None:
        self._out, self._err = folder / "out", folder / "err"
        environment = microphone.environment | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            command = [*PROGRAM, "mic", *map(str, arguments)]
            self._process = subprocess.Popen(command, env=environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        self.wait_for(self._err, "listening to")

    def wait_for(self, path: Path, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in path.read_text():
            assert self._process.poll() is None and time.monotonic() < deadline, self._err.read_text()
            time.sleep(0.05)

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """Status, output, errors."""
        try:
            status = self._process.wait(timeout=30)
        finally:
            self._process.kill()
        return status, self._out.read_text(), self._err.read_text()


def transcribed(model: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["transcribe", str(model), str(path)]) == 0
    return capsys.readouterr().out.strip()


def position(samples: np.ndarray, part: np.ndarray) -> int:
    """Where `part` (n,) begins in `samples`."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, len(part))
    found = [
        start for start in np.flatnonzero(samples[: len(windows)] == part[0]) if np.array_equal(windows[start], part)
    ]
    assert len(found) == 1, found
    return int(found[0])


def test_the_text_is_that_of_the_file_and_every_sample_arrives(
    tone_model: Path,
    speech: Path,
    background: Path,
    virtual_microphone: VirtualMicrophone,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = tmp_path / "saved.wav"
    session = Session(virtual_microphone, tmp_path, tone_model, "--device", "defau", "--save", saved)
    virtual_microphone.play(speech)
    session.interrupt()
    status, out, err = session.end()
    text = " ".join(out.split())
    assert text == transcribed(tone_model, speech, capsys) == " ".join(WORDS)
    assert text == transcribed(tone_model, saved, capsys)
    assert status == 0 and f"(ALSA), {RATE} Hz; Ctrl-C ends" in err and "nothing lost, saved to" in err
    assert soundfile.info(saved).samplerate == RATE
    heard, noise, played = (soundfile.read(path, dtype="int16")[0] for path in (saved, background, speech))
    rest = heard - noise[position(noise, heard[:1000]) :][: len(heard)]
    begin = position(rest, played[:1000])
    rest[begin : begin + len(played)] -= played
    assert not rest.any()  # every sample is the sum of the two recordings


@pytest.mark.slow
def test_a_sound_server_that_ends_leaves_the_text_so_far_and_one_message(
    tone_model: Path, speech: Path, virtual_microphone: VirtualMicrophone, tmp_path: Path
) -> None:
    session = Session(virtual_microphone, tmp_path, tone_model)
    virtual_microphone.play(speech)
    virtual_microphone.kill()
    status, out, err = session.end()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert " ".join(out.split()) == " ".join(WORDS) and status == 1 and "Traceback" not in err
    assert len(errors) == 1 and "stopped delivering audio" in errors[0]


@pytest.mark.slow
def test_the_tool_runs_a_command_on_a_virtual_microphone(
    tone_model: Path, speech: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := missing():
        absent(reason, "WENET_FUSION_REQUIRE_AUDIO")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert play_into(["--gap", "0", "--play", str(speech), "--", *PROGRAM, "mic", str(tone_model)]) == 0
    assert capfd.readouterr().out.split() == WORDS


def test_devices_are_listed(virtual_microphone: VirtualMicrophone) -> None:
    environment = virtual_microphone.environment | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [*PROGRAM, "mic", "--list_devices"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0 and result.stderr == "* is the default\n"
    default = [line.split() for line in result.stdout.splitlines() if line.startswith("*")]
    assert [fields[2:5] for fields in default] == [["default", str(RATE), "Hz"]]
