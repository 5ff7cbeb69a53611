"""The service: the stream of a session; and the WebSocket after a read error."""

import asyncio

import pytest
from aiohttp.test_utils import make_mocked_request
from support.runtime.fake_model import make_model
from wenet_fusion_runtime import Engine, Recognizer
from wenet_fusion_runtime.server.errors import ClientError, Reason
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.server.service import Service
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
        "the server's left is for its chunk"
    )
    assert geometry(SessionOptions(left=4), ChunkChoice(chunk=4)) == (4, 4)
    assert geometry(SessionOptions(left=3), ChunkChoice(allow_untrained=True)) == (8, 3)
    with pytest.raises(ValueError, match="chunk 8 with left context 3"):
        geometry(SessionOptions(left=3))


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
