"""The client in an outage: a silent connection, live audio that continues, and hot words that change."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from aiohttp import web
from support.runtime.browser import CutProxy
from test_reconnecting import OPTIONS, SECOND, CountingServer, counted, running
from wenet_fusion_runtime.server.websocket import client_session, websocket_client
from wenet_fusion_runtime.server.websocket.client_session import ServerError, ServerResult
from wenet_fusion_runtime.server.websocket.kept_audio import KeptAudio, Recording
from wenet_fusion_runtime.server.websocket.websocket_client import ServerAddress, recognise

PATIENCE = 20.0  # seconds


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_client, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(client_session, "CLOSE_SECONDS", 0.5)


def numbered(count: int) -> np.ndarray:
    return np.repeat(np.arange(count, dtype=np.float32), SECOND)


@pytest.mark.parametrize("is_large", [False, True])  # large: sending also waits for the network
def test_a_connection_without_a_sign_of_life_is_lost(monkeypatch: pytest.MonkeyPatch, is_large: bool) -> None:
    monkeypatch.setattr(websocket_client, "SILENCE_SECONDS", 0.6)
    server, notes, finals = CountingServer([]), list[str](), list[ServerResult]()
    samples = numbered(4)
    again = threading.Event()

    def blocks() -> Iterator[np.ndarray]:
        yield samples[: SECOND + 500]
        deadline = time.monotonic() + PATIENCE
        while not finals and time.monotonic() < deadline:
            time.sleep(0.01)
        proxy.silence()
        if not is_large:
            yield samples[SECOND + 500 : 2 * SECOND]
            again.wait(PATIENCE)
            yield samples[2 * SECOND :]
            return
        yield samples[SECOND + 500 :]
        for _ in range(80):
            yield np.full(10 * SECOND, 4, np.float32)

    def note(text: str) -> None:
        notes.append(text)
        again.set()

    async def run() -> None:
        nonlocal proxy
        async with running(server) as url:
            with CutProxy(urlsplit(url).port) as proxy:
                address = ServerAddress(f"ws://127.0.0.1:{proxy.port}/")
                sending = recognise(address, Recording(blocks()), OPTIONS, finals.append, on_note=note)
                await asyncio.wait_for(sending, PATIENCE)

    proxy: Any = None
    asyncio.run(run())
    expected = {f"{second}": SECOND for second in range(4)}
    found = counted([final.text for final in finals if final.text])
    assert found == {**expected, "4": 800 * SECOND} if is_large else found == expected
    assert server.sessions == 2 and "(the server does not answer)" in notes[0] and len(notes) == 2


def test_a_server_that_answers_pings_only_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_client, "SILENCE_SECONDS", 0.3)
    server, finals = CountingServer([]), list[ServerResult]()

    def blocks() -> Iterator[np.ndarray]:
        yield numbered(1)[:500]
        time.sleep(1)
        yield numbered(1)[500:]

    async def run() -> None:
        async with running(server) as url:
            await recognise(ServerAddress(url), Recording(blocks()), OPTIONS, finals.append)

    asyncio.run(run())
    assert server.sessions == 1 and counted([final.text for final in finals]) == {"0": SECOND}


def test_a_server_that_answers_no_request_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_client, "CONNECT_SECONDS", 0.1)

    async def run() -> None:
        listening = await asyncio.start_server(lambda reader, writer: asyncio.sleep(PATIENCE), "127.0.0.1", 0)
        address = ServerAddress(f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/")
        with pytest.raises(ServerError, match="cannot be reached"):
            await asyncio.wait_for(recognise(address, Recording(iter(())), OPTIONS, print), PATIENCE)
        listening.close()

    asyncio.run(run())


def test_live_audio_is_read_during_an_outage() -> None:
    """The source ends before the server is back."""
    server, finals = CountingServer([1000]), list[ServerResult]()
    samples, is_read = numbered(20), threading.Event()
    original = server.serve

    async def serve(request: web.Request) -> web.StreamResponse:
        if server.sessions == 1 and not is_read.is_set():
            return web.Response(status=503)
        return await original(request)

    server.serve = serve  # type: ignore[method-assign]

    def blocks() -> Iterator[np.ndarray]:
        yield from np.split(samples, 100)
        is_read.set()

    async def run() -> None:
        async with running(server) as url:
            live = Recording(blocks(), is_live=True)
            await recognise(ServerAddress(url, reconnect_seconds=5), live, OPTIONS, finals.append)

    asyncio.run(run())
    assert counted([final.text for final in finals if final.text]) == {f"{second}": SECOND for second in range(20)}


def test_audio_is_read_ahead_as_far_as_an_outage_needs() -> None:
    taken = []

    def blocks() -> Iterator[np.ndarray]:
        for number in range(50):
            taken.append(number)
            yield np.full(4, number, np.float32)

    async def run() -> None:
        audio = KeptAudio(Recording(blocks()), sample_rate=4, ahead_seconds=10)
        for reads in (3, 1):
            for _ in range(reads):
                await audio.read()
            await asyncio.sleep(0.3)
            audio.rewind()  # audio that is read again does not count as read ahead
        assert len(taken) == 3 + 10
        await audio.read(), await audio.read()
        audio.forget(2)
        assert [(await audio.read())[0] for _ in range(48)] == list(range(2, 50))
        assert await audio.read() is None
        await audio.end()

    asyncio.run(run())


def test_an_error_of_the_source_comes_after_its_audio() -> None:
    def blocks() -> Iterator[np.ndarray]:
        yield np.zeros(4, np.float32)
        yield np.ones(4, np.float32)
        raise ValueError("the pipe broke")

    async def run() -> None:
        audio = KeptAudio(Recording(blocks()), sample_rate=4, ahead_seconds=10)
        first = await audio.read()
        await asyncio.sleep(0.2)
        assert [first[0], (await audio.read())[0]] == [0, 1]
        with pytest.raises(ValueError, match="the pipe broke"):
            await audio.read()
        await audio.end()

    asyncio.run(run())
