"""The service: the stream of a session; and the WebSocket after a read error."""

import asyncio
import threading
from dataclasses import replace

import pytest
from aiohttp.test_utils import make_mocked_request
from support.runtime.engine_clients import PATIENCE
from support.runtime.fake_model import SAMPLE_RATE, make_model, speak
from wenet_fusion_runtime import AcousticModel, Engine, Recognizer
from wenet_fusion_runtime.model.metadata import ANY
from wenet_fusion_runtime.server.errors import ClientError, Reason
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.server.live_session import LiveSession
from wenet_fusion_runtime.server.service import LONGEST_CHUNK_SECONDS, Service
from wenet_fusion_runtime.server.session_options import SessionOptions
from wenet_fusion_runtime.server.settings import SERVER_OPTIONS, ChunkChoice
from wenet_fusion_runtime.server.websocket.socket import WebSocket
from wenet_fusion_runtime.stream.decoding_options import LIVE_OPTIONS

RECOGNIZER = Recognizer(make_model(), SERVER_OPTIONS)


def geometry(options: SessionOptions, chunks: ChunkChoice = ChunkChoice()) -> tuple[int, int]:
    """Chunk size and left context of a session's stream."""
    with Engine(RECOGNIZER.model) as engine:
        stream = Service(RECOGNIZER, engine, Limits(), chunks)._stream(options, is_file=False)
        return stream.chunk, stream.left


def test_a_session_has_the_chunk_that_it_asks_for_or_the_servers() -> None:
    assert geometry(SessionOptions()) == (8, 2)
    assert geometry(SessionOptions(chunk=4)) == (4, 4)
    assert geometry(SessionOptions(), ChunkChoice(chunk=4)) == (4, 4)
    assert geometry(SessionOptions(chunk=8), ChunkChoice(chunk=4, left=4)) == (8, 2), (
        "the server's left context belongs to its own chunk"
    )
    assert geometry(SessionOptions(left=4), ChunkChoice(chunk=4)) == (4, 4)
    assert geometry(SessionOptions(left=3), ChunkChoice(allow_untrained=True)) == (8, 3)
    with pytest.raises(ValueError, match="chunk 8 with left context 3"):
        geometry(SessionOptions(left=3))


def test_a_session_of_a_model_that_takes_any_chunk_chooses_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention needs memory for the square of the chunk, and two chunks of audio may wait in each session."""
    model = make_model()
    free = AcousticModel(model.backend, replace(model.meta, chunk_rule=ANY))
    monkeypatch.setitem(globals(), "RECOGNIZER", Recognizer(free, SERVER_OPTIONS))
    most = round(LONGEST_CHUNK_SECONDS / free.meta.frame_seconds)
    assert geometry(SessionOptions(chunk=most, left=1)) == (most, 1)
    with pytest.raises(ValueError, match=rf"chunk {most + 1}: a session may have chunks of at most 4 s, {most} frames"):
        geometry(SessionOptions(chunk=most + 1, left=1))
    assert geometry(SessionOptions(chunk=most + 1), ChunkChoice(chunk=most + 2))[0] == most + 1
    assert geometry(SessionOptions(chunk=4 * most), ChunkChoice(allow_untrained=True))[0] == 4 * most


def test_a_slow_formatter_delays_its_own_session_only() -> None:
    """It does not run in a worker of the engine, so other sessions are recognised meanwhile."""
    is_inside, is_released, waits = threading.Event(), threading.Event(), list[bool]()

    def slow(text: str) -> str:
        is_inside.set()
        waits.append(is_released.wait(PATIENCE))
        return text.upper()

    async def run() -> list[str]:
        recognizer = Recognizer(make_model(), replace(SERVER_OPTIONS, formatter=slow))
        with Engine(recognizer.model) as engine:
            service = Service(recognizer, engine, Limits())
            sessions = [await service.open(SessionOptions()) for _ in range(2)]
            for session in sessions:
                await session.push(speak("ab"), SAMPLE_RATE)
                session.end()

            async def text_of(session: LiveSession) -> str:
                found = [update async for update in session.updates()]
                return " ".join(result.text for update in found for result in update.finals)

            waiting = [asyncio.ensure_future(text_of(session)) for session in sessions]
            await asyncio.to_thread(is_inside.wait, PATIENCE)
            third = await service.open(SessionOptions())
            await third.push(speak("ab"), SAMPLE_RATE)
            async for update in third.updates():
                if update.partial is not None and update.partial.text:
                    break
            assert not any(task.done() for task in waiting)
            is_released.set()
            return await asyncio.gather(*waiting)

    assert asyncio.run(asyncio.wait_for(run(), 3 * PATIENCE)) == ["A B", "A B"] and all(waits)


def test_the_server_waits_longer_for_the_first_word_than_a_microphone() -> None:
    """docs/server.md and docs/decoding.md name both times."""
    assert (LIVE_OPTIONS.endpoint.rule1_seconds, SERVER_OPTIONS.endpoint.rule1_seconds) == (2.4, 5.0)
    assert LIVE_OPTIONS.endpoint.rule2_seconds == SERVER_OPTIONS.endpoint.rule2_seconds == 1.2


def test_nothing_is_sent_after_a_read_error() -> None:
    async def run() -> None:
        socket = WebSocket(make_mocked_request("GET", "/ws"), 1000, str)
        with pytest.raises(RuntimeError):  # it is not connected
            await socket.send_str("result")
        socket.read_error = ClientError(Reason.MESSAGE_SIZE, "too large")
        await socket.send_str("result")

    asyncio.run(run())
