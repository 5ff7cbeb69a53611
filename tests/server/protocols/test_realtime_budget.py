"""The budget of events without audio, with a socket in memory and a budget that never fills up again."""

import asyncio
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import WSMsgType
from support.runtime.engine_clients import PATIENCE
from support.runtime.fake_model import LoudnessModel, make_model
from wenet_fusion_runtime import Engine, Recognizer
from wenet_fusion_runtime.server.guard.addresses import Visitor
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.server.openai import realtime_connection
from wenet_fusion_runtime.server.openai.prompt_words import PromptWords
from wenet_fusion_runtime.server.openai.realtime_connection import RealtimeConnection
from wenet_fusion_runtime.server.service import Service
from wenet_fusion_runtime.server.settings import SERVER_OPTIONS
from wenet_fusion_runtime.server.websocket import live_connection


class MemorySocket:
    """Replaces a `WebSocket`: the test puts events in and reads the kinds of the sent events."""

    closed, read_error = False, None

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.sent: list[str] = []

    async def receive(self) -> Any:
        record = await self.incoming.get()
        kind = WSMsgType.CLOSE if record is None else WSMsgType.TEXT
        return SimpleNamespace(type=kind, data=json.dumps(record))

    def parse(self, parse: Callable[[], object]) -> None:
        parse()

    async def send_str(self, text: str) -> None:
        self.sent.append(json.loads(text)["type"])

    async def ping(self) -> None:
        pass

    async def close(self, code: int, message: bytes = b"") -> None:
        self.closed = True

    def abort(self) -> None:
        raise AssertionError("the server hung up")


@pytest.mark.parametrize(
    "record, reply",
    [
        ({"type": "input_audio_buffer.clear"}, "input_audio_buffer.cleared"),
        ({"type": "session.update", "session": {}}, "session.updated"),
        ({"type": "input_audio_buffer.append", "audio": ""}, None),
        ({"type": "input_audio_buffer.append", "audio": "AAAA"}, None),
    ],
)
def test_events_without_audio_wait(record: dict[str, Any], reply: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime_connection, "CONTROLS_PER_SECOND", 1e-6)
    monkeypatch.setattr(realtime_connection, "CONTROLS_AT_ONCE", 3.0)
    recognizer = Recognizer(make_model(), SERVER_OPTIONS)
    waits = record.get("audio") != "AAAA"

    async def run() -> None:
        with Engine(recognizer.model) as engine:
            service, socket = Service(recognizer, engine, Limits()), MemorySocket()
            words = PromptWords(service.meta.vocabulary, recognizer.options.mode)
            served = RealtimeConnection(service, socket, "test", Visitor(), words)  # type: ignore[arg-type]
            for _ in range(8):
                socket.incoming.put_nowait(record)
            running, end = asyncio.ensure_future(served.run()), asyncio.get_running_loop().time() + PATIENCE
            left = 4 if waits else 0  # the fourth event was read and waits
            while socket.incoming.qsize() > left or (reply is not None and socket.sent.count(reply) < 3):
                assert asyncio.get_running_loop().time() < end and not running.done()
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.1)
            assert socket.incoming.qsize() == left and (reply is None or socket.sent.count(reply) == 3)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())


class SlowModel(LoudnessModel):
    """A model with which the end of a session takes about 40 ms."""

    def step(self, *arguments: Any) -> Any:
        time.sleep(0.04)
        return super().step(*arguments)


@pytest.mark.parametrize(
    "events",
    [
        [{"type": "input_audio_buffer.clear"}],
        [
            {"type": "session.update", "session": {"audio": {"input": {"turn_detection": turns}}}}
            for turns in (None, {"type": "server_vad"})
        ],
    ],
)
def test_events_hold_no_session_without_audio(events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of the time limits during the end of a session must not restart the idle time."""
    monkeypatch.setattr(live_connection, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(realtime_connection, "CONTROLS_AT_ONCE", 1e9)
    recognizer = Recognizer(make_model(SlowModel()), SERVER_OPTIONS)

    async def run() -> None:
        with Engine(recognizer.model) as engine:
            service, socket = Service(recognizer, engine, Limits(idle_seconds=1.0)), MemorySocket()
            words = PromptWords(service.meta.vocabulary, recognizer.options.mode)
            served = RealtimeConnection(service, socket, "test", Visitor(), words)  # type: ignore[arg-type]
            running, end, sent = asyncio.ensure_future(served.run()), asyncio.get_running_loop().time() + PATIENCE, 0
            while not running.done():
                assert asyncio.get_running_loop().time() < end, "the session goes on"
                if len(socket.sent) == sent + 1:  # the last event is answered
                    socket.incoming.put_nowait(events[sent % len(events)])
                    sent += 1
                await asyncio.sleep(0.005)
            assert sent > 2 and socket.closed and socket.sent[-1] == "error"
            assert set(socket.sent[1:-1]) <= {"input_audio_buffer.cleared", "session.updated"}

    asyncio.run(run())


def test_the_end_of_the_client_is_the_end_of_the_session() -> None:
    recognizer = Recognizer(make_model(), SERVER_OPTIONS)

    async def run() -> None:
        with Engine(recognizer.model) as engine:
            service, socket = Service(recognizer, engine, Limits()), MemorySocket()
            words = PromptWords(service.meta.vocabulary, recognizer.options.mode)
            served = RealtimeConnection(service, socket, "test", Visitor(), words)  # type: ignore[arg-type]
            socket.incoming.put_nowait({"type": "input_audio_buffer.append", "audio": "AAAA"})
            socket.incoming.put_nowait(None)
            await asyncio.wait_for(served.run(), PATIENCE)
            assert socket.closed and socket.sent == ["session.created"] and engine.statistics.sessions == 0
            text = service.metrics.text().decode()
            assert "wenet_fusion_vanished_total 0.0" in text

    asyncio.run(run())
