"""The command `client` against servers with WeNet's messages, and against hostile ones."""

import asyncio
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from aiohttp import WSMsgType, web
from support.runtime.fake_model import SAMPLE_RATE, speak
from wenet_fusion_runtime.cli.__main__ import main


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "one.wav", speak("abc"), SAMPLE_RATE)
    return tmp_path / "one.wav"


class WenetServer:
    """A server with WeNet's messages that keeps all received messages."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.audio = b""
        self.port = 0
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                self.audio += message.data
                await socket.send_str(r'{"status":"ok","type":"partial_result","nbest":"[{\"sentence\":\"hal\"}]"}')
                continue
            self.texts.append(message.data)
            if json.loads(message.data)["signal"] == "start":
                await socket.send_str('{"status":"ok","type":"server_ready"}')
                continue
            for sentence in ("hallo", "du"):
                nbest = json.dumps([{"sentence": sentence, "word_pieces": [{"word": sentence, "start": 0, "end": 40}]}])
                await socket.send_str(json.dumps({"status": "ok", "type": "final_result", "nbest": nbest}))
            await socket.send_str('{"status":"ok","type":"speech_end"}')
            break  # the server closes without a close frame
        return socket

    async def _run(self) -> None:
        app = web.Application()
        for path in ("/", "/refuses"):
            app.router.add_get(path, self._serve)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await asyncio.to_thread(self._stop.wait, 60)
        await runner.cleanup()

    def __enter__(self) -> "WenetServer":
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)


def test_servers_of_wenet_get_what_they_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22050) / 44100)
    soundfile.write(tmp_path / "a.wav", tone, 44100, subtype="FLOAT")
    with WenetServer() as wenet:
        assert main(["client", f"127.0.0.1:{wenet.port}", str(tmp_path / "a.wav"), "--wenet", "--fast"]) == 0
        assert capsys.readouterr().out == "hallo du\n"
        assert wenet.texts == ['{"signal":"start","nbest":1,"continuous_decoding":true}', '{"signal":"end"}']
        sent = np.frombuffer(wenet.audio, "<i2")
        assert len(sent) == 8000 and np.abs(sent).max() == pytest.approx(16384, rel=0.05)  # half a second at 16 kHz
        assert main(["client", f"127.0.0.1:{wenet.port}", "a.wav", "--wenet", "--chunk", "4"]) == 1
        assert "takes no hot words, grammars, chunks" in capsys.readouterr().err


async def _hostile(request: web.Request) -> web.WebSocketResponse:
    """Sends escape sequences, and ends the session before the client has sent its audio, or refuses it."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.receive()
    if request.path == "/refuses":
        await socket.send_str(json.dumps({"status": "failed", "message": "no\x1b]0;title\x07" + "x" * 100_000}))
        return socket
    await socket.send_str('{"status":"ok","type":"server_ready"}')
    nbest = json.dumps([{"sentence": "hallo\x1b[2J\nforged"}])
    await socket.send_str(json.dumps({"status": "ok", "type": "final_result", "nbest": nbest}))
    await socket.send_str('{"status":"ok","type":"speech_end"}')
    return socket


def test_a_servers_text_is_shown_harmless_and_an_early_end_is_an_error(
    recording: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(_: WenetServer, request: web.Request) -> web.WebSocketResponse:
        return await _hostile(request)

    monkeypatch.setattr(WenetServer, "_serve", serve)
    with WenetServer() as hostile:
        address = f"ws://127.0.0.1:{hostile.port}"
        assert main(["client", f"{address}/", str(recording)]) == 1
        out, err = capsys.readouterr()
        assert out == "hallo\\x1b[2J\\nforged\n"
        assert "the server ended the session after 0." in err and "the text is not complete" in err
        assert main(["client", f"{address}/refuses", str(recording)]) == 1
        err = capsys.readouterr().err
        assert r"the server refused: no\x1b]0;title\x07xxx" in err and "\x1b" not in err and len(err) < 2000


@pytest.mark.parametrize(
    "record, reason",
    [
        ({"nbest": '[{"sentence": 1e308}]'}, "a text is float"),
        ({"nbest": '[{"sentence": "a"}]', "words": [{"text": ["a"], "spaced": True}]}, "a text is list"),
        ({"nbest": '[{"sentence": "a"}]', "committed": "1"}, "TypeError"),
        ({"nbest": "[" * 50_000}, "RecursionError"),
    ],
)
def test_a_servers_result_of_other_types_is_an_error_in_one_line(
    record: dict[str, object],
    reason: str,
    recording: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def serve(_: WenetServer, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        await socket.send_str('{"status":"ok","type":"server_ready"}')
        await socket.send_str(json.dumps({"status": "ok", "type": "final_result", **record}))
        return socket

    monkeypatch.setattr(WenetServer, "_serve", serve)
    with WenetServer() as hostile:
        assert main(["client", f"127.0.0.1:{hostile.port}", str(recording), "--fast"]) == 1
    err = capsys.readouterr().err
    assert "the server sent a result that cannot be read" in err and reason in err and err.count("\n") == 1
