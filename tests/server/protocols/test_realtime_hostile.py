"""Hostile use of the realtime protocol meets the limits of the server."""

import asyncio
import base64
import json
import random
import socket as sockets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.hostile_clients import is_exact
from support.runtime.server_process import (
    PATIENCE,
    ServerProcess,
    Socket,
    connected,
    eventually,
    frame,
    metric,
    pcm,
)
from wenet_fusion_runtime.server.errors import ClientError
from wenet_fusion_runtime.server.openai.realtime_events import BadEvent, check_length, parse_event

APPEND = "input_audio_buffer.append"
NO_TURNS = {"audio": {"input": {"turn_detection": None, "format": {"type": "audio/pcm", "rate": SAMPLE_RATE}}}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = ("--idle_seconds", 2, "--max_audio_seconds", 20, "--max_address_sessions", 1, "--send_seconds", 2)
    archive = save_archive(tmp_path_factory.mktemp("hostile") / "model.zip")
    with ServerProcess(archive, *flags, "--max_message_bytes", 1_000_000) as started:
        yield started


def opened(server: ServerProcess, address: str | None = None) -> Any:
    headers = {} if address is None else {"X-Forwarded-For": address}
    return connected(f"{server.url}v1/realtime", headers=headers)


def audio(data: bytes) -> dict[str, str]:
    return {"type": APPEND, "audio": base64.b64encode(data).decode()}


async def last_error(socket: Socket) -> str:
    """Receive until the server closes; return its last event, an error."""
    records = await socket.rest()
    assert records[-1]["type"] == "error", records[-1]
    return records[-1]["error"]["message"]


def refused(server: ServerProcess, *messages: str | bytes) -> tuple[str, int | None]:
    """Return the last error and the close code of the server."""

    async def run() -> tuple[str, int | None]:
        async with opened(server) as socket:
            for message in messages:
                if isinstance(message, str):
                    await socket.socket.send_str(message)
                else:
                    await socket.socket.send_bytes(message)
            return await last_error(socket), socket.close_code

    return asyncio.run(run())


def test_a_client_without_audio_is_ended(server: ServerProcess) -> None:
    problem, code = refused(server)
    assert "less than 0.02 s of audio came in 2 s" in problem and code == 1008
    tiny = json.dumps(audio(bytes(2)))
    assert "less than 0.02 s of audio" in refused(server, *[tiny] * 20)[0]


def test_large_events_are_refused(server: ServerProcess) -> None:
    lists = json.dumps({"type": "session.update", "session": [0] * 100_000})
    problem, code = refused(server, lists)
    assert "an event of more than 163840 bytes is not mainly audio" in problem and code == 1008
    problem, code = refused(server, json.dumps(audio(bytes(800_000))))
    assert "more than 1000000 bytes" in problem and code == 1009
    assert "not JSON" in refused(server, *["[" * 150_000] * 11)[0]
    assert "not JSON" in refused(server, *['{"type":' + "9" * 150_000 + "}"] * 11)[0]


def test_mistakes_in_a_row_end_the_session(server: ServerProcess) -> None:
    for message in ('{"type": "input_audio_buffer.append", "audio": "*"}', b"binary", "{}", '"\\ud800"'):
        problem, code = refused(server, *[message] * 30)
        assert problem.startswith("too many events cannot be used") and code == 1008


def test_audio_above_the_limit_is_not_decoded(server: ServerProcess) -> None:
    loud = pcm(speak("abcd" * 30))

    async def run() -> None:
        async with opened(server) as socket:
            await socket.say(type="session.update", session=NO_TURNS)
            for start in range(0, len(loud), 8000):
                await socket.say(**audio(loud[start : start + 8000].tobytes()))
            records = await socket.rest()
            assert "a session may have 20 s of audio" in records[-1]["error"]["message"]
            (completed,) = [record for record in records if record["type"].endswith(".completed")]
            recognised = completed["transcript"].split()
            assert recognised == list("abcd" * 30)[: len(recognised)] and 95 <= len(recognised) <= 101

    asyncio.run(run())


def test_sessions_of_one_address_are_counted(server: ServerProcess) -> None:
    async def run() -> None:
        async with opened(server, "192.0.2.7") as one:
            assert json.loads(await one.receive() or "")["type"] == "session.created"
            async with opened(server, "192.0.2.7") as second:
                assert "the limit of 1 sessions of one address" in await last_error(second)
            async with opened(server, "192.0.2.8") as other:
                assert json.loads(await other.receive() or "")["type"] == "session.created"

    asyncio.run(run())


def test_a_client_that_never_reads_is_cut(server: ServerProcess) -> None:
    """Segments of one frame cause events until the buffers of both systems are full."""

    async def run() -> None:
        raw, loop = sockets.socket(), asyncio.get_running_loop()
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        raw.setblocking(False)
        head = (
            b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        long_prompt = {"audio": {"input": {"transcription": {"prompt": "a" * 4000}}}}
        update = frame(1, json.dumps({"type": "session.update", "session": long_prompt}).encode())
        chunk = frame(1, json.dumps(audio(bytes(2400))).encode())
        await loop.sock_connect(raw, ("127.0.0.1", server.port))
        await loop.sock_sendall(raw, head)
        try:
            while True:
                await asyncio.wait_for(loop.sock_sendall(raw, update + chunk), PATIENCE)
        except ConnectionError:
            pass
        finally:
            raw.close()

        async def is_gone() -> bool:
            return await metric(server.url, "sessions") == 0

        assert await eventually(is_gone)

    asyncio.run(run())


@pytest.mark.slow
def test_floods_of_events_cost_others_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Commits, clears and updates wait, and end the session after ten seconds; honest clients get exact texts."""
    kinds = ({"type": "input_audio_buffer.clear"}, {"type": "session.update", "session": NO_TURNS}, audio(b""))

    async def flood(server: ServerProcess, message: dict[str, Any]) -> str:
        async with opened(server) as socket:
            answering = asyncio.ensure_future(last_error(socket))
            try:
                while not answering.done():
                    await socket.say(**audio(bytes(480)))
                    for _ in range(20):
                        await socket.say(**message)
            except ConnectionError:
                pass
            return await answering

    async def run(server: ServerProcess) -> None:
        floods = [asyncio.ensure_future(flood(server, kind)) for kind in kinds]
        while not all(one.done() for one in floods):
            assert await is_exact(server)
        for one in floods:
            assert "events other than audio exceeded 10 per second for 10 s" in one.result()

    with ServerProcess(save_archive(tmp_path_factory.mktemp("floods") / "model.zip")) as server:
        asyncio.run(run(server))


def test_a_server_that_stops_sends_the_text_so_far(tmp_path: Path) -> None:
    with ServerProcess(save_archive(tmp_path / "model.zip"), "--drain_seconds", 1) as server:

        async def run() -> None:
            async with opened(server) as socket:
                await socket.say(type="session.update", session=NO_TURNS)
                await socket.say(**audio(pcm(speak("abcd")).tobytes()))
                while json.loads(await socket.receive() or "")["type"] != "session.updated":
                    pass
                server.stop()
                assert "the server is shutting down" in await last_error(socket) and socket.close_code == 1001
                (completed,) = [record for record in socket.records if record["type"].endswith(".completed")]
                assert completed["transcript"] == "a b c d"

        asyncio.run(run())
        assert server.wait() == 0


# ---- parsing


def test_audio_of_any_length_is_accepted_and_nothing_else() -> None:
    rng = random.Random(0)
    for size in (0, 1, 300_000, 1_500_000):
        data = rng.randbytes(size)
        text = json.dumps({"event_id": "event_1"} | audio(data))
        for sent in (text, text.replace("/", "\\/")):  # as some libraries escape
            check_length(sent)
            assert parse_event(sent).audio == data
    long = "x" * 200_000
    for harmless in (f'{{"type": "{long}"}}', f'{{"a": "{long}", "b": 1}}'):
        check_length(harmless)
    for costly in ("[0," * 100_000, '{"a":' * 50_000, '["",' * 50_000, "[[" * 100_000):
        with pytest.raises(ClientError, match="is not mainly audio"):
            check_length(costly)


def test_only_harmless_identifiers_are_sent_back() -> None:
    for given, expected in (("mine", "mine"), ("x" * 513, None), ("\ud800", None), (7, None), ("\u4e00", None)):
        with pytest.raises(BadEvent) as caught:
            parse_event(json.dumps({"type": "other", "event_id": given}))
        assert caught.value.event_id == expected
