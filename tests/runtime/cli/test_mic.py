"""The command `mic`: its output and recording, its end and its errors. Devices are replaced."""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, save_model, speak
from support.runtime.fake_sounddevice import UNAVAILABLE, FakeSoundDevice, FakeStream, record
from support.runtime.full_disk import files_of_at_most
from wenet_fusion_runtime.cli import mic, recognition_arguments
from wenet_fusion_runtime.cli.__main__ import build_parser, main
from wenet_fusion_runtime.stream.recognizer import Recognizer

PAUSE = " " * 8  # 1.6 s


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("mic") / "model.pt")


def spoken(text: str) -> np.ndarray:
    """(n, 1) int16."""
    return (32767 * speak(text)).astype(np.int16)[:, None]


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeSoundDevice]:
    """Install a device at the model's rate; a function feeds its stream."""

    def install(script: Callable[[FakeStream], None], **options: object) -> FakeSoundDevice:
        fake = FakeSoundDevice(record("Mic", rate=SAMPLE_RATE), plays=script, **options)
        monkeypatch.setitem(sys.modules, "sounddevice", fake)
        return fake

    return install


def says(text: str, then: Callable[[], None] = interrupt) -> Callable[[FakeStream], None]:
    def script(stream: FakeStream) -> None:
        for start in range(0, len(spoken(text)), 100):
            stream.deliver(spoken(text)[start : start + 100])
        then()

    return script


def run(*arguments: object) -> int:
    return main(["mic", *map(str, arguments)])


def test_ctrl_c_ends_with_the_whole_text(model: Path, plays: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    handler = signal.getsignal(signal.SIGINT)
    fake = plays(says("abcd dcba"))
    assert run(model) == 0
    out, err = capsys.readouterr()
    assert out == "a b c d d c b a\n"
    assert err == "listening to 0 'Mic' (ALSA), 8000 Hz; Ctrl-C ends\n1.9 s of audio, nothing lost\n"
    assert fake.streams[0].closed and signal.getsignal(signal.SIGINT) is handler


def test_a_pause_ends_a_line_by_default(model: Path, plays: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    plays(says("ab" + PAUSE + "cd"))
    assert run(model) == 0 and capsys.readouterr().out == "a b\nc d\n"
    assert run(model, "--rule2_seconds", "off") == 0 and capsys.readouterr().out == "a b c d\n"


def test_a_second_ctrl_c_ends_at_once() -> None:
    stops: list[int] = []
    with pytest.raises(KeyboardInterrupt), mic._stopped_by_signals(lambda: stops.append(1)):
        interrupt()
        assert stops == [1]
        interrupt()
        time.sleep(1)  # is not reached
    assert stops == [1]


def test_the_model_is_loaded_and_warm_before_the_device_opens(
    model: Path, plays: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []

    class Watched(Recognizer):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            events.append("warm")

    monkeypatch.setattr(recognition_arguments, "Recognizer", Watched)
    plays(says("a"), refuses=lambda *_: events.append("opened"))
    assert run(model) == 0 and events == ["warm", "opened"]


def test_the_saved_audio_is_the_recognised_audio(
    model: Path, plays: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "saved.wav"
    plays(says("ab" + PAUSE + "cd"))
    assert run(model, "--save", saved, "--format", "json") == 0
    samples, rate = soundfile.read(saved, dtype="int16", always_2d=True)
    assert rate == SAMPLE_RATE and np.array_equal(samples, spoken("ab" + PAUSE + "cd"))
    heard, err = capsys.readouterr()
    assert err.endswith(f"nothing lost, saved to {saved}\n")
    same = ["--rule1_seconds", "2.4", "--rule2_seconds", "1.2", "--commit_seconds", "1", "--format", "json"]
    assert main(["transcribe", str(model), str(saved), *same]) == 0
    assert capsys.readouterr().out == heard and heard.count("\n") == 2


def test_seconds_ends_at_the_exact_sample(model: Path, plays: Callable, tmp_path: Path) -> None:
    plays(says("abcdabcd", then=lambda: None))
    assert run(model, "--seconds", "0.5001", "--save", tmp_path / "a.wav") == 0
    assert soundfile.info(tmp_path / "a.wav").frames == 4001


def test_losses_are_shown(
    model: Path, plays: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(stream: FakeStream) -> None:
        stream.deliver(spoken("a"), overflow=True)
        is_slow.wait(10)
        for _ in range(12):  # 10 s may wait
            stream.deliver(np.zeros((SAMPLE_RATE, 1)))
        interrupt()
        goes_on.set()

    def partial(*arguments: object) -> None:
        is_slow.set()
        assert goes_on.wait(10)
        show(*arguments)

    is_slow, goes_on, show = threading.Event(), threading.Event(), mic._Display.partial
    monkeypatch.setattr(mic._Display, "partial", partial)
    plays(script)
    assert run(model) == 0
    err = capsys.readouterr().err
    assert "10.0 s lost, 1 overflow of the system's buffer" in err and "this computer was too slow" in err


def test_a_device_that_vanishes_leaves_the_text_and_the_file(
    model: Path, plays: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(stream: FakeStream) -> None:
        says("abc", then=lambda: None)(stream)
        stream.active = False

    plays(script)
    assert run(model, "--save", tmp_path / "a.wav") == 1
    out, err = capsys.readouterr()
    assert out == "a b c\n" and soundfile.info(tmp_path / "a.wav").frames == len(spoken("abc"))
    assert err.splitlines()[-1].startswith("error: device 0 'Mic' (ALSA) stopped delivering audio")


def test_a_disk_that_is_full_leaves_the_text(
    model: Path, plays: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = mic.WavWriter.write, []

    def full(*arguments: object) -> None:
        calls.append(1)
        if len(calls) > 64:  # of 71 blocks, so in the silence at the end
            raise OSError(28, "No space left on device", "a.wav")
        write(*arguments)

    monkeypatch.setattr(mic.WavWriter, "write", full)
    plays(says("abcd", then=lambda: None))
    assert run(model, "--save", tmp_path / "a.wav") == 1
    out, err = capsys.readouterr()
    assert out == "a b c d\n" and "No space left on device" in err.splitlines()[-1]


def test_a_full_disk_leaves_a_whole_file_and_an_honest_summary(
    model: Path, plays: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "a.wav"
    size = 44 + 2 * len(spoken("ab"))
    plays(says("abcd", then=lambda: None))
    with files_of_at_most(size + 100):
        assert run(model, "--save", saved) == 1
    out, err = capsys.readouterr()
    kept, rate = soundfile.read(saved, dtype="int16", always_2d=True)
    assert len(kept) == len(spoken("ab")) // 100 * 100 and np.array_equal(kept, spoken("abcd")[: len(kept)])
    assert saved.stat().st_size == 44 + 2 * len(kept), "no part of a block stays"
    assert out.startswith("a b") and "nothing lost" not in err.splitlines()[-2]
    assert f"the first {len(kept) / rate:.1f} s saved to {saved}" in err.splitlines()[-2]
    last = err.splitlines()[-1]
    assert last == f"error: {saved} cannot be written (File too large); free some space, or name another place"


def test_a_muted_microphone_is_reported_once(model: Path, plays: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    for text, count in (("          " * 4, 1), (" " * 10 + "a" + " " * 30, 0)):
        plays(says(text))
        assert run(model, "--mode", "ctc_greedy_search") == 0
        assert capsys.readouterr().err.count("only zeros so far: check that the microphone is not muted") == count


def test_other_formats_partial_lines_and_latency(
    model: Path, plays: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    plays(says("abc"))
    assert run(model, "--format", "json", "--partials", "--latency") == 0
    out, err = capsys.readouterr()
    *partials, final = [json.loads(line) for line in out.splitlines()]
    assert [record["partial"] for record in partials] == ["a b", "a b c"]
    assert (final["file"], final["text"], final["tokens"][0]["text"]) == ("microphone", "a b c", "a")
    assert re.search(r"behind the speaker when a chunk was shown: median \d+\.\d\d s, 95 % within \d", err)
    assert "the first words of a chunk wait up to 0.32 s more" in err
    assert run(model, "--partials") == 0 and capsys.readouterr().out == "... a b\n... a b c\na b c\n"
    assert run(model, "--format", "vtt") == 0 and capsys.readouterr().out.startswith("WEBVTT\n\n00:00:00.")
    assert run(model, "--format", "srt", "--partials") == 1 and "--partials goes with" in capsys.readouterr().err


def test_latency_is_counted_from_the_end_of_what_was_decoded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mic, "time", SimpleNamespace(monotonic=lambda: 100.0))
    options = build_parser().parse_args(["mic", "model.pt", "--latency"])
    source = SimpleNamespace(description="", lost_seconds=0.0, overflows=0)
    display = mic._Display(options, source, chunk_seconds=0.64)
    for end, lag in ((1.0, 0.5), (1.0, 9.0), (2.0, 0.25)):  # the second one decoded nothing new
        result = SimpleNamespace(end_seconds=end, words=[], text="", committed=0)
        display.partial(result, 99.9, seconds_read=end + lag)
    assert list(display._latencies) == pytest.approx([0.6, 0.35])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--device", "webcam"], "no input device has 'webcam' in the name; choose one of: 0 'Mic' (ALSA)"),
        (["--device", "0", "--input", "-"], "--device and --input exclude each other"),
        (["--save", "a.mp3"], "a.mp3: audio is saved as wav"),
        (["--seconds", "0"], "--seconds must be positive, at most 1e+07, found 0"),
        (["--rate", "-1"], "--rate must be 4000 to 384000, found -1"),
        (["--channels", "33"], "--channels must be 1 to 32, found 33"),
        (["--chunk", "5"], "the model was not trained for it; choose one of 4/4, 8/2"),
        ([], "device 0 'Mic' (ALSA) is busy or unplugged"),
    ],
)
def test_mistakes_give_one_line(
    model: Path, plays: Callable, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    plays(says("a"), refuses=lambda *_: UNAVAILABLE)
    assert run(model, *arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_a_missing_package_gives_one_line(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert run(model) == 1
    _, err = capsys.readouterr()
    assert (
        err.startswith("error: capturing from a device needs the package sounddevice: pip install")
        and err.count("\n") == 1
    )
    with pytest.raises(SystemExit) as end:
        run("--list_devices")
    assert end.value.code == 1 and capsys.readouterr().err == err


def test_devices_are_listed_without_a_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeSoundDevice(record("HDMI", 0), record("Built-in", 2, 44100.0), record("USB Mic", host=1), default=2)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    with pytest.raises(SystemExit) as end:
        run("--list_devices")
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert out == "   1  Built-in   44100 Hz   2 channels  ALSA\n*  2  USB Mic    48000 Hz    1 channel  JACK\n"
    assert err == "* is the default\n"
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSoundDevice())
    with pytest.raises(SystemExit) as end:
        run("--list_devices")
    assert end.value.code == 0 and capsys.readouterr().err.startswith("no input devices; read audio from a pipe:")


def test_a_terminal_as_pipe_is_refused(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, fileno=lambda: 0))
    assert run(model, "--input", "-") == 1
    assert "standard input is a terminal: arecord" in capsys.readouterr().err
