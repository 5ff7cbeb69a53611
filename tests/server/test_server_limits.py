"""Limits: a client above one gets a reason, and only its own session ends."""

import asyncio
import json
import socket as sockets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.server_process import (
    PATIENCE,
    ServerProcess,
    Socket,
    connected,
    encoded,
    eventually,
    http,
    metric,
    pcm,
    spoken_to,
)
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.server.limits import Limits


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    model = save_archive(tmp_path_factory.mktemp("limits") / "model.zip")
    flags = {
        "max_sessions": 2,
        "max_message_bytes": 20000,
        "max_upload_bytes": 100000,
        "max_upload_seconds": 1.5,
        "max_audio_seconds": 4,
        "start_seconds": 0.8,
        "idle_seconds": 0.8,
        "send_seconds": 1,
    }
    with ServerProcess(model, *(part for flag, value in flags.items() for part in (f"--{flag}", value))) as started:
        yield started


async def refused(server: ServerProcess, reason: str) -> float:
    return await metric(server.url, f'refusals_total{{reason="{reason}"}}')


def test_audio_seconds(server: ServerProcess) -> None:
    """The audio within the limit is recognised, then the error is sent."""
    samples = pcm(np.concatenate([speak("ab"), np.zeros(SAMPLE_RATE * 3, np.float32), speak("cd"), speak("abcd")]))
    assert len(samples) > 4 * SAMPLE_RATE

    async def run() -> Socket:
        async with connected(server.url) as socket:
            await socket.start(sample_rate=SAMPLE_RATE, continuous_decoding=True)
            await socket.send(samples.tobytes(), 15000)
            await socket.rest()
            return socket

    socket = asyncio.run(run())
    assert socket.text == "a b c d" and socket.close_code == 1008
    assert socket.failure == socket.close_reason == "a session may have 4 s of audio; open another connection"


def test_message_size(server: ServerProcess) -> None:
    largest = pcm(speak("abcdab"))
    assert len(largest.tobytes()) > 20000, "the first message has exactly 20000 bytes"
    assert asyncio.run(spoken_to(server.url, largest, 20000, sample_rate=SAMPLE_RATE)).text == "a b c d a b"

    async def run(message: str | bytes) -> Socket:
        async with connected(server.url) as socket:
            await socket.start(sample_rate=SAMPLE_RATE)
            await (socket.socket.send_str if isinstance(message, str) else socket.socket.send_bytes)(message)
            await socket.rest()
            return socket

    before = asyncio.run(refused(server, "message_size"))
    for message in (bytes(20001), "x" * 20001):
        socket = asyncio.run(run(message))
        assert socket.failure.startswith("a message has more than 20000 bytes") and socket.close_code == 1009

    async def are_counted() -> bool:  # true once the client has hung up
        return await refused(server, "message_size") == before + 2

    assert asyncio.run(eventually(are_counted))


def test_start_deadline(server: ServerProcess) -> None:
    async def run() -> None:
        before = time.monotonic()
        async with connected(server.url) as socket:
            await socket.rest()
            assert socket.failure == "no start signal came within 0.8 s" and 0.7 < time.monotonic() - before < PATIENCE

    asyncio.run(run())


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_request_that_never_comes_is_cut(server: ServerProcess, sent: bytes) -> None:
    with sockets.create_connection(("127.0.0.1", server.port), PATIENCE) as raw:
        raw.sendall(sent)
        assert raw.recv(1000) == b""


def test_idle(server: ServerProcess) -> None:
    async def run() -> Socket:
        async with connected(server.url) as socket:
            await socket.start(sample_rate=SAMPLE_RATE)
            await socket.send(pcm(speak("abc")).tobytes())
            await socket.rest()
            return socket

    socket = asyncio.run(run())
    assert (
        socket.text == "a b c"
        and socket.failure == "less than 0.008 s of audio came in 0.8 s; send audio or an end signal"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "least_seconds", "failure"),
    [
        (b"\x00", 0.8, "less than 0.008 s of audio came in 0.8 s; send audio or an end signal"),
        (bytes(2 * SAMPLE_RATE // 50), 4.0, "a session may last 4.8 s; open another connection"),
    ],
)
def test_a_trickle_does_not_keep_a_session(
    server: ServerProcess, sent: bytes, least_seconds: float, failure: str
) -> None:
    """A byte now and then counts as idle. A fifth of real time does not; that session ends at the longest duration."""

    async def run() -> tuple[Socket, float]:
        before = time.monotonic()
        async with connected(server.url) as socket:
            await socket.start(sample_rate=SAMPLE_RATE)
            resting = asyncio.ensure_future(socket.rest())
            while not resting.done() and time.monotonic() - before < PATIENCE:
                await asyncio.sleep(0.1)
                try:
                    await socket.socket.send_bytes(sent)
                except ConnectionError:  # it has hung up
                    break
            await resting
            return socket, time.monotonic() - before

    socket, lasted = asyncio.run(run())
    assert socket.failure == failure and least_seconds < lasted < PATIENCE


@pytest.mark.slow
def test_pings_do_not_make_a_client_busy(server: ServerProcess) -> None:
    async def run() -> Socket:
        async with connected(server.url, heartbeat=0.2) as socket:
            await socket.start()
            await socket.rest()
            return socket

    assert asyncio.run(run()).failure.startswith("less than 0.008 s of audio came in 0.8 s")


def test_sessions(server: ServerProcess) -> None:
    async def run() -> None:
        full = await refused(server, "full")
        async with connected(server.url) as first, connected(server.url) as second, connected(server.url) as third:
            for socket in (first, second):
                await socket.start(sample_rate=SAMPLE_RATE)
            await third.say(signal="start")
            await third.rest()
            assert (
                third.failure == "the limit of 2 open sessions is reached; try again later" and third.close_code == 1013
            )
            status, headers, body = await http("POST", f"{server.url}transcribe", data=encoded(speak("a"), SAMPLE_RATE))
            assert (status, headers["Retry-After"]) == (
                503,
                "5",
            ) and "the limit of 2 open sessions is reached" in json.loads(body)["message"]
            for socket, text in ((first, "ab"), (second, "cd")):
                await socket.send(pcm(speak(text)).tobytes())
                await socket.say(signal="end")
                await socket.rest()
                assert socket.text == " ".join(text)
        assert await refused(server, "full") == full + 2
        assert await eventually(lambda: _is_empty(server))
        assert (await spoken_to(server.url, pcm(speak("ab")), sample_rate=SAMPLE_RATE)).text == "a b"

    asyncio.run(run())


async def _is_empty(server: ServerProcess) -> bool:
    return await metric(server.url, "sessions") == 0


def test_upload_size(server: ServerProcess) -> None:
    too_long = encoded(np.zeros((100_000 - 44) // 2 + 1, np.float32), SAMPLE_RATE)  # too long by one sample

    async def in_pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(too_long), 5000):
            yield too_long[start : start + 5000]

    form = aiohttp.FormData()
    form.add_field("file", too_long, filename="a.wav")
    for body in (too_long, in_pieces(), form):
        status, _, answer = asyncio.run(http("POST", f"{server.url}transcribe", data=body))
        assert status == 413 and "more than 100000 bytes" in json.loads(answer)["message"]


@pytest.mark.slow
def test_upload_time_and_seconds_of_audio(server: ServerProcess) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield bytes(100)
            await asyncio.sleep(0.1)

    async def run() -> None:
        status, _, answer = await http("POST", f"{server.url}transcribe", data=slowly())
        assert status == 408 and json.loads(answer)["message"] == "the upload took more than 1.5 s"
        spoken = np.concatenate([speak("abc"), np.zeros(5 * SAMPLE_RATE, np.float32)])
        status, _, answer = await http("POST", f"{server.url}transcribe", data=encoded(spoken, SAMPLE_RATE))
        assert status == 400 and json.loads(answer) == {
            "status": "failed",
            "message": "the file has more than 4 s of audio; cut it",
            "text": "a b c",
        }
        assert await eventually(lambda: _is_empty(server))

    asyncio.run(run())


def test_uploads_that_are_still_coming_are_bounded_too(server: ServerProcess) -> None:
    async def run() -> None:
        head = b"POST /transcribe HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n"
        writers = [(await asyncio.open_connection("127.0.0.1", server.port))[1] for _ in range(2)]
        for writer in writers:
            writer.write(head + bytes(100))

        async def is_refused() -> bool:
            status, _, body = await http("POST", f"{server.url}transcribe", data=encoded(speak("a"), SAMPLE_RATE))
            return status == 503 and "the limit of 2 uploads is reached" in json.loads(body)["message"]

        assert await eventually(is_refused)
        for writer in writers:
            writer.close()

        async def is_accepted() -> bool:
            return (await http("POST", f"{server.url}transcribe", data=encoded(speak("a"), SAMPLE_RATE)))[0] == 200

        assert await eventually(is_accepted), "closed uploads still count"

    asyncio.run(run())


def test_limits_must_be_positive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_archive(tmp_path / "model.zip")
    for flag, name in (
        ("max_sessions", "sessions"),
        ("idle_seconds", "idle_seconds"),
        ("max_message_bytes", "message_bytes"),
    ):
        assert main(["serve", str(model), f"--{flag}", "0"]) == 1
        assert capsys.readouterr().err == f"error: {name} must be positive, found 0\n"
    with pytest.raises(ValueError, match="audio_seconds must be positive, found nan"):
        Limits(audio_seconds=float("nan"))
