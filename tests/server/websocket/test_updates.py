"""Hot words and a context that a client sends during its session."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiohttp import WSMsgType
from support.runtime.fake_model import SAMPLE_RATE, LoudnessModel, make_model, speak
from wenet_fusion_runtime import DecodingOptions, Engine, HotWord, Recognizer
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM
from wenet_fusion_runtime.server.errors import ClientError
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.server.service import Service
from wenet_fusion_runtime.server.session_options import MAX_CONTEXT, MAX_MARKS, HotWordUpdate, SessionOptions
from wenet_fusion_runtime.server.websocket import protocol
from wenet_fusion_runtime.server.websocket.connection import Connection
from wenet_fusion_runtime.stream.endpoints import LIVE_ENDPOINTS

UNSURE = make_model(LoudnessModel(sharpness=8.0))
RECOGNIZER = Recognizer(UNSURE, DecodingOptions(PREFIX_BEAM, endpoint=LIVE_ENDPOINTS, commit_seconds=None))
SAMPLES = speak("abcabc")
DATA = protocol.sample_bytes(SAMPLES, "int16")


class MemorySocket:
    """Gives messages to the connection, and keeps the messages that it sends."""

    def __init__(self, messages: list[Any]) -> None:
        self.messages, self.sent, self.closed, self.close_code = list(messages), [], False, 0
        self.read_error = None

    async def receive(self) -> Any:
        if not self.messages:
            await asyncio.Event().wait()
        data = self.messages.pop(0)
        data = json.dumps(data) if isinstance(data, dict) else data
        return SimpleNamespace(type=WSMsgType.TEXT if isinstance(data, str) else WSMsgType.BINARY, data=data)

    async def send_str(self, text: str) -> None:
        self.sent.append(json.loads(text))

    async def close(self, code: int, message: bytes = b"") -> None:
        self.closed, self.close_code = True, code

    def abort(self) -> None:
        self.closed = True


def serve(messages: list[Any], recognizer: Recognizer = RECOGNIZER, **start: Any) -> MemorySocket:
    first = {"signal": "start", "continuous_decoding": True, "sample_rate": SAMPLE_RATE, "chunk": 4} | start
    socket = MemorySocket([first, *messages])

    async def run() -> None:
        with Engine(recognizer.model) as engine:
            await asyncio.wait_for(Connection(Service(recognizer, engine, Limits()), socket, "test").run(), 60)

    asyncio.run(run())
    return socket


def replies(socket: MemorySocket) -> list[dict[str, Any]]:
    return [record for record in socket.sent if record.get("type") in ("updated", "update_refused")]


def text_of(socket: MemorySocket) -> str:
    finals = [record for record in socket.sent if record.get("type") == "final_result"]
    return " ".join(json.loads(record["nbest"])[0]["sentence"] for record in finals)


END = {"signal": "end"}
WORDS = [{"phrase": "d", "boost": 30.0}]


def test_an_update_changes_what_a_stream_alone_changes() -> None:
    cut = len(DATA) // 2 // 2 * 2
    socket = serve([DATA[:cut], {"signal": "update", "hot_words": WORDS}, DATA[cut:], END])
    assert replies(socket) == [{"status": "ok", "type": "updated"}]
    stream = RECOGNIZER.create_stream(4)
    samples = np.frombuffer(DATA, "<i2")
    stream.accept_waveform(samples[: cut // 2])
    stream.set_hot_words([HotWord("d", 30.0)])
    stream.accept_waveform(samples[cut // 2 :])
    stream.finish()
    assert text_of(socket) == stream.text != text_of(serve([DATA, END]))


def test_a_refused_update_leaves_the_session_as_it_was() -> None:
    wrong = {"signal": "update", "hot_words": [{"phrase": "x\ud800"}, {"phrase": ""}]}
    socket = serve([{"signal": "update", "hot_words": WORDS}, wrong, DATA, END])
    (first, second) = replies(socket)
    assert first["type"] == "updated" and second["type"] == "update_refused" and second["status"] == "ok"
    assert second["message"].startswith("2 hot words cannot be used: hot word 'x\\ud800': no token")
    assert text_of(socket) == text_of(serve([DATA, END], hot_words=WORDS))


def test_the_terms_of_a_context_are_returned() -> None:
    finder: Any = SimpleNamespace(find=lambda text: tuple(text.split()))
    recognizer = Recognizer(UNSURE, DecodingOptions(PREFIX_BEAM))
    object.__setattr__(recognizer._biasing, "finder", finder)
    socket = serve([{"signal": "update", "context": "d", "hot_words": []}, DATA, END], recognizer, context="a b")
    assert replies(socket) == [{"status": "ok", "type": "updated", "context": ["d"]}]


def test_a_search_without_alternatives_refuses_hot_words() -> None:
    socket = serve([{"signal": "update", "hot_words": WORDS}, DATA, END], Recognizer(UNSURE, DecodingOptions(GREEDY)))
    assert "keeps a single hypothesis" in replies(socket)[0]["message"] and text_of(socket)


@pytest.mark.parametrize(
    "record, part",
    [
        ({}, "an update signal has the keys hot_words and context"),
        ({"nbest": 3}, "an update signal has the keys hot_words and context"),
        ({"hot_words": "d"}, "hot_words must be a list of at most 1000 objects"),
        ({"context": ["d"]}, f"context must be a text of at most {MAX_CONTEXT} characters"),
        ({"context": "d" * (MAX_CONTEXT + 1)}, "context must be a text of at most"),
        ({"context": "e" + "\u0301\u0316\u200b" * 16}, "a text with at most 30 combining marks in a row, found"),
        ({"hot_words": [{"phrase": "d" * 201}]}, "at most 200 characters"),
    ],
)
def test_wrong_updates_are_refused_and_the_session_goes_on(record: dict[str, Any], part: str) -> None:
    socket = serve([{"signal": "update", "hot_words": WORDS}, {"signal": "update"} | record, DATA, END])
    (first, second) = replies(socket)
    assert first["type"] == "updated" and second["type"] == "update_refused" and part in second["message"]
    assert text_of(socket) == text_of(serve([DATA, END], hot_words=WORDS))
    assert socket.sent[-1] == {"status": "ok", "type": "speech_end"}
    with pytest.raises(ClientError, match=part):
        protocol.parse_signal(json.dumps({"signal": "update"} | record), LIVE_ENDPOINTS)


def test_an_update_does_not_begin_a_session() -> None:
    socket = MemorySocket([{"signal": "update", "hot_words": []}])

    async def run() -> None:
        with Engine(UNSURE) as engine:
            await Connection(Service(RECOGNIZER, engine, Limits()), socket, "test").run()

    asyncio.run(run())
    assert socket.sent[-1]["message"] == "Start signal is expected before update signal"


def test_signals_are_read_as_they_are_written() -> None:
    for update in (HotWordUpdate((HotWord("ä", -2.0),), None), HotWordUpdate((), "Zoë"), HotWordUpdate(None, "")):
        assert protocol.parse_signal(protocol.update_signal(update), LIVE_ENDPOINTS) == update
    for context in ("Then Anna came.", "e" + "\u0301" * 30, "\u0301\u0316 " * MAX_MARKS):
        options = SessionOptions(context=context)
        assert protocol.parse_signal(protocol.start_signal(options), LIVE_ENDPOINTS) == options
