"""The command `client` against this server, and against one with WeNet's messages."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.server_process import PROGRAM, ServerProcess
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.server.session_options import SessionOptions
from wenet_fusion_runtime.server.websocket import client_session, protocol
from wenet_fusion_runtime.server.websocket.kept_audio import KeptAudio, Recording


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("client")
    save_archive(path / "model.zip")
    for name, text in (("one.wav", "abc"), ("two.flac", "dd a"), ("silence.wav", "    ")):
        soundfile.write(path / name, speak(text), SAMPLE_RATE)
    (path / "broken.wav").write_bytes(b"no audio")
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with ServerProcess(folder / "model.zip") as started:
        yield started


def client(server: ServerProcess, *arguments: object) -> int:
    return main(["client", f"127.0.0.1:{server.port}", *map(str, arguments)])


def test_one_file_as_fast_as_it_was_spoken(
    server: ServerProcess, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = time.monotonic()
    assert client(server, folder / "one.wav") == 0
    assert time.monotonic() - begin >= len(speak("abc")) / SAMPLE_RATE
    out, err = capsys.readouterr()
    assert out == "a b c\n"
    assert err.startswith("0.7 s of audio, text 0.") and "95 % within" in err and err.endswith("s after the end\n")


def test_several_files_as_fast_as_possible(
    server: ServerProcess, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [folder / name for name in ("one.wav", "two.flac", "silence.wav")]
    for url in (server.url, server.url.replace("http", "ws") + "ws"):
        assert main(["client", url, *map(str, files), "--fast", "--chunk", "4"]) == 0
        out, err = capsys.readouterr()
        assert out == "".join(f"{file}\t{text}\n" for file, text in zip(files, ("a b c", "d d a", "")))
        assert [line.split(": ")[0] for line in err.splitlines()] == list(map(str, files))


def test_partials_are_lines_when_asked_for(
    server: ServerProcess, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client(server, folder / "one.wav", "--partials", "--chunk", "4") == 0
    *partials, last = capsys.readouterr().out.splitlines()
    assert last == "a b c" and len(partials) >= 2 and all(line.startswith("... ") for line in partials)


def test_partials_appear_in_place_on_a_terminal(
    server: ServerProcess, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert client(server, folder / "one.wav", "--chunk", "4") == 0
    shown = capsys.readouterr().out.split("\r\033[J")
    assert len(shown) >= 3 and shown[-1] == "a b c\n" and "\033[2m" in shown[1]


@pytest.mark.parametrize("form", ["raw", "wav"])
def test_standard_input(server: ServerProcess, tmp_path: Path, form: str) -> None:
    samples = (32767 * speak("abcd")).astype("<i2")
    if form == "wav":
        soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE)
    data = (tmp_path / "a.wav").read_bytes() if form == "wav" else samples.tobytes()
    flags = [] if form == "wav" else ["--rate", str(SAMPLE_RATE)]
    command = [*PROGRAM, "client", server.url, "-", *flags]
    result = subprocess.run(command, input=data, capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (0, b"a b c d\n"), result.stderr


def test_hot_words_reach_the_server(
    server: ServerProcess, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text("b a\t30\n")
    assert client(server, folder / "one.wav", "--fast", "--hot_words", tmp_path / "words.txt") == 0
    assert capsys.readouterr().out != "a b c\n"
    assert client(server, folder / "one.wav", "--fast", "--hot_word", "xyz") == 1
    assert "hot word 'xyz'" in capsys.readouterr().err
    assert client(server, folder / "one.wav", "--hot_word", "a=b") == 1
    assert "which is not a number" in capsys.readouterr().err


def test_endpoint_rules_reach_the_server(
    server: ServerProcess,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    start_signal = protocol.start_signal
    monkeypatch.setattr(protocol, "start_signal", lambda *given: said.append(start_signal(*given)) or said[-1])
    assert client(server, folder / "one.wav", "--fast") == 0
    assert client(server, folder / "one.wav", "--fast", "--rule1_seconds", "off", "--rule2_seconds", "0.08") == 0
    assert capsys.readouterr().out == "a b c\na b c\n"
    assert "endpoint" not in said[0] and '"endpoint":{"rule1_seconds":null,"rule2_seconds":0.08}' in said[1]
    assert client(server, folder / "one.wav", "--rule3_seconds", "-1") == 1
    assert "the server refused: endpoint: rule3_seconds must be positive, found -1" in capsys.readouterr().err
    assert client(server, folder / "one.wav", "--wenet", "--silence_probability", "0.8") == 1
    message = capsys.readouterr().err
    assert "takes no hot words, grammars, chunks or endpoint rules" in message
    assert "and no context: omit these options, or omit --wenet if the server is wenet-fusion-runtime" in message


def test_recordings_that_fail_are_reported_and_the_others_are_sent(
    server: ServerProcess, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("missing.wav", "broken.wav", "one.wav")
    assert client(server, *(folder / name for name in names), "--fast") == 1
    out, err = capsys.readouterr()
    assert out == f"{folder / 'one.wav'}\ta b c\n"
    lines = err.splitlines()
    assert lines[0] == f"error: {folder / 'missing.wav'}: no such audio file"
    assert lines[1].startswith(f"error: {folder / 'broken.wav'}: cannot be read as audio")


def test_the_servers_reason_is_shown(server: ServerProcess, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert client(server, folder / "one.wav", "--chunk", "5") == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {folder / 'one.wav'}: the server refused: chunk 5") and err.count("\n") == 1


def test_no_server_and_no_token(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["client", "127.0.0.1:1", str(folder / "one.wav")]) == 1
    err = capsys.readouterr().err
    assert "ws://127.0.0.1:1: cannot be reached" in err and err.count("\n") == 1
    (tmp_path / "token").write_text("s3cret")
    with ServerProcess(folder / "model.zip", environment={"WENET_FUSION_TOKEN": "s3cret"}) as server:
        assert client(server, folder / "one.wav") == 1
        assert "needs a token: give --token_file, or set WENET_FUSION_TOKEN (HTTP 401)" in capsys.readouterr().err
        assert client(server, folder / "one.wav", "--fast", "--token_file", tmp_path / "token") == 0
        assert capsys.readouterr().out == "a b c\n"


@pytest.mark.parametrize("url", ["ftp://localhost", "localhost:x", "ws://", "localhost:99999", ""])
def test_invalid_addresses_are_refused(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["client", url, str(folder / "one.wav")]) == 1
    assert capsys.readouterr().err == (
        f"error: '{url}' is not the address of a server, expected HOST:PORT, or a URL with ws://, wss://, http://, https://\n"
    )


def test_a_terminal_is_no_audio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["client", "localhost:1", "-"]) == 1
    assert capsys.readouterr().err.endswith(
        "standard input is a terminal: arecord -t raw -f S16_LE -r 16000 -c 1 | "
        "wenet-fusion-runtime client localhost:1 -\n"
    )


def test_a_server_that_dies_is_an_error_with_the_text_so_far(folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", speak("abcd" * 20), SAMPLE_RATE)
    with ServerProcess(folder / "model.zip", "--rule3_seconds", 0.5, "--rule3_silence_seconds", 0.08) as server:
        command = [*PROGRAM, "client", server.url, str(tmp_path / "long.wav"), "--partials", "--reconnect_seconds", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            lines = [process.stdout.readline() for _ in range(4)]
            server.kill()
            out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "the server closed the connection" in err and "Traceback" not in err
    assert all(line.startswith("... a b") for line in lines) and out.splitlines()[-1].startswith("a b c")


def test_delays_count_from_the_block_that_completes_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr(client_session.time, "monotonic", lambda: now)
    audio = KeptAudio(Recording(iter(())), SAMPLE_RATE)
    session = client_session.ClientSession(None, SessionOptions(), audio, client_session.Timing(), print)
    session._sent.extend([(0.5, 1.0), (1.0, 2.0), (1.5, 3.0)])  # seconds of audio, when they were sent
    assert session._delay(None) is None and session._delay(0.9) == 8.0
    assert session._delay(0.9) is None and session._delay(0.4) is None, "an earlier end gives no delay"
    assert session._delay(1.5) == 7.0 and session._timing.delays == [8.0, 7.0]
