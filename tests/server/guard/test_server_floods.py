"""Floods: a connection that sends empty frames, long texts or large forms costs other clients nothing."""

import asyncio
import os
import re
import signal
import socket as sockets
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.hostile_clients import START, flood, flooded_server, is_exact
from support.runtime.server_process import (
    PATIENCE,
    PROGRAM,
    ServerProcess,
    connected,
    eventually,
    frame,
    http,
    metric,
    pcm,
    raw_socket,
    spoken_to,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with flooded_server(tmp_path_factory.mktemp("floods")) as started:
        yield started


def test_pings_are_answered_within_a_budget(server: ServerProcess) -> None:
    """20,000 pings arrive at once: 100 are answered, then 50 a second."""

    async def run() -> int:
        raw, loop = await raw_socket(server), asyncio.get_running_loop()
        await loop.sock_sendall(raw, START)
        flooding = asyncio.ensure_future(flood(raw, frame(9, b"") * 1000))
        found, end = b"", loop.time() + 1.5
        while (left := end - loop.time()) > 0:
            try:
                found += await asyncio.wait_for(loop.sock_recv(raw, 1 << 16), left)
            except asyncio.TimeoutError:
                break
        flooding.cancel()
        raw.close()
        return found.count(b"\x8a\x00")

    assert 50 <= asyncio.run(run()) <= 1000


@pytest.mark.parametrize("opcode", [9, 10, 2], ids=["pings", "pongs", "empty"])
def test_honest_sessions_beside_floods_of_empty_frames(server: ServerProcess, opcode: int) -> None:
    async def run() -> None:
        raws = [await raw_socket(server) for _ in range(3)]
        flooding = []
        for raw in raws:
            await asyncio.get_running_loop().sock_sendall(raw, START)
            flooding.append(asyncio.ensure_future(flood(raw, frame(opcode, b"") * 5000)))
        before = time.monotonic()
        for _ in range(3):
            assert await is_exact(server)
            assert (await http("GET", f"{server.url}healthz"))[0] == 200
        assert time.monotonic() - before < PATIENCE / 2
        for task in flooding:
            task.cancel()
        for raw in raws:
            raw.close()

    asyncio.run(run())


def test_clients_that_hung_up_keep_no_place(server: ServerProcess) -> None:
    """Unread frames for 200 s of the budget wait in the socket, so the end of the connection cannot be read."""

    async def run() -> None:
        loop, found = asyncio.get_running_loop(), b""
        with await raw_socket(server) as raw:
            await loop.sock_sendall(raw, START)
            while b"server_ready" not in found:  # unread data would cause a reset, which is easier to notice
                found += await asyncio.wait_for(loop.sock_recv(raw, 4096), PATIENCE)
            await loop.sock_sendall(raw, frame(2, b"") * 10_000)

        async def nothing_is_left() -> bool:
            return await metric(server.url, "sessions") == 0

        assert await eventually(nothing_is_left)  # the deadline is 60 s

    asyncio.run(run())


def test_long_texts_are_refused_unread_and_not_echoed(server: ServerProcess) -> None:
    async def run(text: str) -> str:
        async with connected(server.url) as socket:
            await socket.socket.send_str(text)
            await socket.rest()
            return socket.failure

    assert (
        asyncio.run(run("[" + "0," * 500_000 + "0]"))
        == "a text message has more than 163840 bytes; send audio as binary, and fewer hot words"
    )
    assert len(asyncio.run(run('{"signal":"start","nbest":1,"' + "k" * 100_000 + '":1}'))) < 500
    assert not any(len(line) > 2000 for line in server.log)


def test_all_of_a_form_counts(server: ServerProcess) -> None:
    """Fields, names and the bytes between the parts: 1 MB in all."""

    async def run(part: bytes, count: int) -> tuple[int, bytes]:
        async def body() -> AsyncIterator[bytes]:
            for number in range(count):
                yield part.replace(b"NUMBER", b"%d" % number)

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        status, _, answer = await http("POST", f"{server.url}transcribe", data=body(), headers=headers)
        return status, answer

    field = b'--b\r\nContent-Disposition: form-data; name="NUMBER"\r\n\r\n' + b"v" * 4000 + b"\r\n"
    assert asyncio.run(run(field, 2000))[0] in (400, 413)
    status, answer = asyncio.run(run(b"between the parts" * 2000 + b"\r\n", 100))
    assert status == 413 and b"the request has more than" in answer


def test_connections_that_never_start_shut_nobody_out(tmp_path: Path) -> None:
    """More silent connections and WebSockets than there are places, from the address of the honest client."""
    with ServerProcess(
        save_archive(tmp_path / "model.zip"), "--max_sessions", 2, "--start_seconds", PATIENCE
    ) as server:

        async def run() -> None:
            async with connected(server.url) as honest:
                await honest.start(sample_rate=SAMPLE_RATE, continuous_decoding=True)
                raws = [sockets.create_connection(("127.0.0.1", server.port), PATIENCE) for _ in range(150)]
                webs = [await raw_socket(server) for _ in range(80)]
                assert await is_exact(server)
                assert await metric(server.url, 'refusals_total{reason="full"}') > 50
                await honest.send(pcm(speak("ab")).tobytes())  # a session keeps its place
                await honest.say(signal="end")
                await honest.rest()
                assert honest.text == "a b"
                for raw in (*raws, *webs):
                    raw.close()

        asyncio.run(run())


def test_names_and_versions(server: ServerProcess) -> None:
    async def run() -> None:
        for path in ("", "info", "healthz"):
            headers = {"Host": "evil.com", "Origin": "http://evil.com"}
            status, _, answer = await http("GET", f"{server.url}{path}", headers=headers)
            assert status == 421 and b"'evil.com' (header Host) is not a name of this server" in answer
        assert (await http("GET", f"{server.url}info", headers={"Host": f"localhost:{server.port}"}))[0] == 200
        for request in (
            b"NONSENSE\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request)
            answer = await asyncio.wait_for(reader.read(), PATIENCE)
            assert answer.startswith(b"HTTP/1.") and b'"status": "failed"' in answer
            assert not re.search(rb"aiohttp|Python|\d\.\d+\.\d", answer), answer
            writer.close()

    asyncio.run(run())


def test_the_address_that_a_proxy_names_has_its_own_limit(tmp_path: Path) -> None:
    with ServerProcess(save_archive(tmp_path / "model.zip"), "--max_sessions", 4) as server:

        async def run() -> None:
            first, second = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
            async with (
                connected(server.url, headers=first) as one,
                connected(server.url, headers=first) as two,
                connected(server.url, headers=first) as three,
                connected(server.url, headers=second) as other,
            ):
                for socket in (one, two, other):
                    await socket.start()
                await three.say(signal="start")
                await three.rest()
                assert "the limit of 2 sessions of one address is reached" in three.failure

        asyncio.run(run())

        async def is_logged() -> bool:
            return any("192.0.2.1 /: refused (full)" in line for line in server.log)

        assert asyncio.run(eventually(is_logged))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_sighup_drains(tmp_path: Path) -> None:
    with ServerProcess(save_archive(tmp_path / "model.zip")) as server:

        async def run() -> None:
            async with connected(server.url) as socket:
                await socket.start(sample_rate=SAMPLE_RATE)
                server.stop(signal.SIGHUP)
                await socket.send(pcm(speak("ab")).tobytes())
                await socket.say(signal="end")
                await socket.rest()
                assert socket.text == "a b"

        asyncio.run(run())
        assert server.wait() == 0 and any("stopped; " in line for line in server.log)


def test_a_log_pipe_that_is_full_stops_no_session(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while os.write(writing, bytes(4096)):
            pass
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    command = [*PROGRAM, "serve", str(save_archive(tmp_path / "model.zip")), "--port", "0", "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writing, text=True) as process:
        try:
            url = process.stdout.readline().split()[-1]
            for _ in range(3):
                found = asyncio.run(asyncio.wait_for(spoken_to(url, pcm(speak("abcd")), sample_rate=SAMPLE_RATE), 20))
                assert found.text == "a b c d"
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            os.close(reading)
            os.close(writing)
