"""Time limits of a WebSocket connection, with a socket in memory and short times."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import WSMsgType
from support.runtime.engine_clients import PATIENCE
from support.runtime.fake_model import LoudnessModel, make_model
from wenet_fusion_runtime import Engine, Recognizer
from wenet_fusion_runtime.server.errors import ClientError, Reason, shutting_down
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.server.service import Service
from wenet_fusion_runtime.server.settings import SERVER_OPTIONS
from wenet_fusion_runtime.server.websocket import live_connection
from wenet_fusion_runtime.server.websocket.connection import Connection

START = '{"signal":"start","sample_rate":8000}'


class MemorySocket:
    """Replaces a `WebSocket`: the test puts messages in and reads the sent messages."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[str | bytes] = asyncio.Queue()
        self.sent: list[str] = []
        self.pings = 0
        self.close_code = 0
        self.closed = self.aborted = self.is_stuck = False
        self.read_error: ClientError | None = None

    async def receive(self) -> Any:
        data = await self.incoming.get()
        return SimpleNamespace(type=WSMsgType.TEXT if isinstance(data, str) else WSMsgType.BINARY, data=data)

    async def send_str(self, text: str) -> None:
        if self.is_stuck:
            await asyncio.Event().wait()
        self.sent.append(text)

    async def ping(self) -> None:
        self.pings += 1
        if self.is_stuck:
            await asyncio.Event().wait()

    async def close(self, code: int, message: bytes = b"") -> None:
        self.closed, self.close_code = True, code

    def abort(self) -> None:
        self.closed = self.aborted = True


class Held(LoudnessModel):
    """A model that waits in `step` until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.released.set()

    def step(self, *arguments: Any) -> Any:
        assert self.released.wait(PATIENCE)
        return super().step(*arguments)


Script = Callable[[Connection, MemorySocket, Held], Awaitable[None]]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, seconds in (("TICK_SECONDS", 0.01), ("FINISH_SECONDS", 0.1), ("PING_SECONDS", 0.05)):
        monkeypatch.setattr(live_connection, name, seconds)
    yield


def serve(script: Script, **limits: float) -> tuple[MemorySocket, Service]:
    """Run a connection and a script at the same time, until both end."""
    model = Held()
    recognizer = Recognizer(make_model(model), SERVER_OPTIONS)

    async def run() -> tuple[MemorySocket, Service]:
        with Engine(recognizer.model) as engine:
            service, socket = Service(recognizer, engine, Limits(**limits)), MemorySocket()
            served = Connection(service, socket, "test")
            socket.incoming.put_nowait(START)
            running = asyncio.ensure_future(served.run())
            await script(served, socket, model)
            await asyncio.wait_for(running, PATIENCE)
            model.released.set()
            return socket, service

    return asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    end = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.005)


def errors(service: Service, reason: Reason) -> bool:
    return f'wenet_fusion_refusals_total{{reason="{reason.value}"}} 1.0' in service.metrics.text().decode()


def test_a_session_that_is_ended_early_has_a_deadline_too() -> None:
    """The model hangs: the client still learns why its session ends."""

    async def script(served: Connection, socket: MemorySocket, model: Held) -> None:
        await until(lambda: bool(socket.sent))
        model.released.clear()
        socket.incoming.put_nowait(bytes(16000))
        await asyncio.sleep(0.05)
        served.end_early(shutting_down())

    socket, service = serve(script)
    assert "shutting down" in socket.sent[-1] and socket.close_code == 1001 and errors(service, Reason.SHUTDOWN)


def test_a_quiet_connection_is_pinged() -> None:
    async def script(served: Connection, socket: MemorySocket, model: Held) -> None:
        await until(lambda: socket.pings >= 2)
        socket.incoming.put_nowait('{"signal":"end"}')

    socket, _ = serve(script)
    assert socket.sent[-1] == '{"status":"ok","type":"speech_end"}' and socket.close_code == 1000


def test_a_session_slower_than_real_time_ends_with_the_longest_one() -> None:
    """A tenth of real time is not idle, but such a session could last ten times the longest audio."""

    async def script(served: Connection, socket: MemorySocket, model: Held) -> None:
        while not socket.closed:
            socket.incoming.put_nowait(bytes(16))
            await asyncio.sleep(0.01)

    socket, service = serve(script, audio_seconds=0.2, idle_seconds=0.1)
    assert "a session may last 0.3 s; open another connection" in socket.sent[-1] and socket.close_code == 1008
    assert errors(service, Reason.AUDIO_SECONDS)


@pytest.mark.parametrize("what", ["a message", "a ping"])
def test_a_client_that_reads_nothing_is_cut(what: str) -> None:
    async def script(served: Connection, socket: MemorySocket, model: Held) -> None:
        await until(lambda: bool(socket.sent))
        socket.is_stuck = True
        if what == "a message":
            socket.incoming.put_nowait('{"signal":"end"}')

    socket, service = serve(script, send_seconds=0.1)
    assert socket.aborted and errors(service, Reason.SLOW_READER)


def test_a_session_without_audio_is_idle() -> None:
    async def script(served: Connection, socket: MemorySocket, model: Held) -> None:
        await until(lambda: bool(socket.sent))

    socket, service = serve(script, idle_seconds=0.1)
    assert "less than 0.001 s of audio came in 0.1 s" in socket.sent[-1] and errors(service, Reason.IDLE)


def test_what_follows_the_end_signal_is_dropped() -> None:
    """The model is still working, so the server does read the messages."""

    async def script(served: Connection, socket: MemorySocket, model: Held) -> None:
        await until(lambda: bool(socket.sent))
        model.released.clear()
        for message in (bytes(16000), '{"signal":"end"}', "rubbish", bytes(100)):
            socket.incoming.put_nowait(message)
        await until(socket.incoming.empty)
        model.released.set()

    socket, _ = serve(script)
    assert socket.sent[-1] == '{"status":"ok","type":"speech_end"}' and socket.close_code == 1000
