"""If the connection of a client is lost, another session continues after the last final text."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from aiohttp import WSMsgType, web
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.server_process import ServerProcess
from wenet_fusion_runtime import HotWord
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.server.session_options import HotWordUpdate, SessionOptions
from wenet_fusion_runtime.server.websocket import client_session, websocket_client
from wenet_fusion_runtime.server.websocket.client_session import ServerError, ServerResult
from wenet_fusion_runtime.server.websocket.kept_audio import KeptAudio, Recording
from wenet_fusion_runtime.server.websocket.websocket_client import ServerAddress, recognise

RATE = 4000
SECOND = RATE  # samples
OPTIONS = SessionOptions(continuous_decoding=True, sample_rate=RATE, sample_format="float32", timestamps=True)


class CountingServer:
    """A server whose texts count the samples of each second; a sample's value is the number of its second.

    Every whole second gives a final result. After `losses[i]` samples of session i the connection is lost. Hot words
    of `unspellable` are refused.
    """

    def __init__(self, losses: list[int], code: int | None = None) -> None:
        self.losses, self.code = list(losses), code
        self.starts: list[dict[str, Any]] = []
        self.updates: list[dict[str, Any]] = []
        self.sessions = 0
        self.is_away = False
        self.unspellable = ""
        self.samples_before_update = 0  # samples of the session before its last update

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if self.is_away:
            return web.Response(status=503)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        left = self.losses.pop(0) if self.losses else None
        self.sessions += 1
        samples = np.zeros(0, np.float32)
        done = 0
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                samples = np.concatenate([samples, np.frombuffer(message.data, np.float32)])
                if left is not None and len(samples) >= left:
                    return await self._lose(socket)
                while len(samples) - done >= SECOND:
                    await self._final(socket, samples[done : done + SECOND], (done + SECOND) / RATE)
                    done += SECOND
                continue
            record = json.loads(message.data)
            is_refused = self.unspellable in [word["phrase"] for word in record.get("hot_words", ())]
            if record["signal"] == "start":
                self.starts.append(record)
                if is_refused:
                    await socket.send_str('{"status":"failed","message":"1 hot word cannot be used"}')
                    break
                await socket.send_str('{"status":"ok","type":"server_ready"}')
            elif record["signal"] == "update":
                self.updates.append(record)
                self.samples_before_update = len(samples)
                kind = "update_refused" if is_refused else "updated"
                await socket.send_str(json.dumps({"status": "ok", "type": kind, "message": "cannot be used"}))
            else:
                await self._final(socket, samples[done:], len(samples) / RATE)
                await socket.send_str('{"status":"ok","type":"speech_end"}')
                break
        return socket

    async def _lose(self, socket: web.WebSocketResponse) -> web.WebSocketResponse:
        if self.code is None:
            socket._req.transport.abort()
        else:
            await socket.send_str('{"status":"failed","message":"the server is shutting down; connect again"}')
            await socket.close(code=self.code)
        return socket

    async def _final(self, socket: web.WebSocketResponse, samples: np.ndarray, end: float) -> None:
        words = [f"{value:g}x{int((samples == value).sum())}" for value in np.unique(samples)]
        record = {
            "status": "ok",
            "type": "final_result",
            "nbest": json.dumps([{"sentence": " ".join(words)}]),
            "end": end,
            "committed": len(words),
            "words": [{"text": word, "spaced": True} for word in words],
        }
        await socket.send_str(json.dumps(record))


@asynccontextmanager
async def running(server: CountingServer) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/", server.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_client, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(client_session, "CLOSE_SECONDS", 0.5)


def transcribe(
    server: CountingServer, samples: np.ndarray, piece: int, options: SessionOptions = OPTIONS, **settings: Any
) -> tuple[list[str], list[str]]:
    """Return the final texts and the notes."""
    finals: list[ServerResult] = []
    notes: list[str] = []
    updates = settings.pop("updates", None)

    async def run() -> None:
        async with running(server) as url:
            blocks = (samples[start : start + piece] for start in range(0, len(samples), piece))
            address = ServerAddress(url, **settings)
            await recognise(address, Recording(blocks), options, finals.append, updates=updates, on_note=notes.append)

    asyncio.run(run())
    return [found.text for found in finals if found.text], notes


def counted(texts: list[str]) -> dict[str, int]:
    """Return how many samples of each second the final texts hold."""
    found: dict[str, int] = {}
    for word in " ".join(texts).split():
        second, count = word.split("x")
        found[second] = found.get(second, 0) + int(count)
    return found


@settings(max_examples=12, deadline=None)
@example(seconds=5, rest=7, piece=1000, losses=[SECOND + 1000, 2 * SECOND + 1000], code=None)
@given(
    seconds=st.integers(0, 5),
    rest=st.integers(0, SECOND - 1),
    piece=st.sampled_from([300, 1000, 4000, 7001]),
    losses=st.lists(st.integers(1, 3 * SECOND), max_size=3),
    code=st.sampled_from([None, 1001, 1012]),
)
def test_no_sample_is_lost_or_recognised_twice(
    seconds: int, rest: int, piece: int, losses: list[int], code: int | None
) -> None:
    samples = np.repeat(np.arange(seconds + 1, dtype=np.float32), SECOND)[: seconds * SECOND + rest]
    server = CountingServer(losses, code)
    texts, notes = transcribe(server, samples, piece)
    expected = {f"{second}": int((samples == second).sum()) for second in range(seconds + 1)}
    assert counted(texts) == {second: count for second, count in expected.items() if count}
    lost = server.sessions - 1
    assert len(notes) == 2 * lost and all("connection was lost after" in note for note in notes[::2])
    assert all(note.startswith("connected again; the audio from ") for note in notes[1::2])


def test_a_server_that_stays_away_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    server = CountingServer([1000])
    original = server._lose

    async def leave(socket: Any) -> Any:
        server.is_away = True
        return await original(socket)

    monkeypatch.setattr(server, "_lose", leave)
    with pytest.raises(ServerError, match=r"could not be reached again for 0.2 s"):
        transcribe(server, np.zeros(3 * SECOND, np.float32), 500, reconnect_seconds=0.2)


@pytest.mark.parametrize("settings, options", [({"reconnect_seconds": 0.0}, OPTIONS), ({}, SessionOptions(True))])
def test_nothing_is_tried_again_without_times_or_if_it_is_off(
    settings: dict[str, float], options: SessionOptions
) -> None:
    server = CountingServer([1000])
    options = SessionOptions(sample_rate=RATE, sample_format="float32") if options is not OPTIONS else OPTIONS
    with pytest.raises(ServerError, match="the server closed the connection, code 1006"):
        transcribe(server, np.zeros(3 * SECOND, np.float32), 500, options, **settings)
    assert server.sessions == 1


def test_a_refusal_is_final() -> None:
    server = CountingServer([1000], code=1008)
    with pytest.raises(ServerError, match="the server refused: the server is shutting down"):
        transcribe(server, np.zeros(3 * SECOND, np.float32), 500)
    assert server.sessions == 1


def test_the_next_session_has_the_hot_words_that_were_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_session, "UPDATE_SECONDS", 0.01)
    server, is_set = CountingServer([2 * SECOND]), threading.Event()

    class Once:
        def changed(self) -> HotWordUpdate | None:
            if is_set.is_set():
                return None
            is_set.set()
            return HotWordUpdate((HotWord("ANNA", 2.0),), None)

        def refused(self, message: str) -> None:
            raise AssertionError(message)

    def slowly() -> Any:
        for number in range(6):
            yield np.full(SECOND // 2, number, np.float32)
            is_set.wait(5)
            threading.Event().wait(0.05)

    async def run() -> None:
        async with running(server) as url:
            await recognise(ServerAddress(url), Recording(slowly()), OPTIONS, lambda found: None, updates=Once())

    asyncio.run(run())
    assert "hot_words" not in server.starts[0] and server.updates
    assert server.starts[1]["hot_words"] == [{"phrase": "ANNA", "boost": 2.0}]


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), max_size=8),
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.booleans()), max_size=6),
)
def test_kept_audio_is_read_again_from_what_is_covered(sizes: list[int], steps: list[tuple[int, int, bool]]) -> None:
    whole = np.arange(sum(sizes), dtype=np.float32)
    blocks = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []

    async def run() -> None:
        audio, position, covered = KeptAudio(Recording(iter(blocks)), sample_rate=1), 0, 0
        for reads, more, again in steps:
            for _ in range(reads):
                block = await audio.read()
                if block is None:
                    assert position == len(whole)
                    break
                assert block.tolist() == whole[position : position + len(block)].tolist()
                position += len(block)
            covered = min(covered + more, position) if position > covered else covered
            audio.forget(covered)
            assert audio.start_seconds == covered
            if again:
                audio.rewind()
                position = covered
        rest = []
        while (block := await audio.read()) is not None:
            rest += block.tolist()
        assert rest == whole[position:].tolist()

    asyncio.run(run())


@pytest.mark.slow
def test_the_command_says_so_and_its_text_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server is killed, and started again at the same port."""
    model = save_archive(tmp_path / "model.zip")
    soundfile.write(tmp_path / "long.wav", speak("abcd" * 15), SAMPLE_RATE)
    flags = ("--rule3_seconds", 0.5, "--rule3_silence_seconds", 0.08)
    status: list[int] = []
    with ServerProcess(model, *flags) as first:
        command = ["client", first.url, str(tmp_path / "long.wav"), "--reconnect_seconds", "60"]
        client = threading.Thread(target=lambda: status.append(main(command)))
        client.start()
        threading.Event().wait(3.0)
        first.kill()
        with ServerProcess(model, *flags, "--port", first.port):
            client.join(60)
    out, err = capsys.readouterr()
    assert status == [0] and out.split() == list("abcd" * 15)
    assert "the connection was lost after" in err and "connected again; the audio from" in err
