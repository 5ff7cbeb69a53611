"""The whole server during floods of every kind, and after it was suspended."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.hostile_clients import CHUNKED, START, flood_for, flooded_server, is_exact, plain_socket
from support.runtime.server_process import ServerProcess, connected, eventually, frame, metric, pcm, raw_socket


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with flooded_server(tmp_path_factory.mktemp("floods")) as started:
        yield started


@pytest.mark.slow
def test_a_server_that_stood_still_blames_no_client(tmp_path: Path) -> None:
    with ServerProcess(save_archive(tmp_path / "model.zip"), "--idle_seconds", 2) as server:

        async def run() -> None:
            async with connected(server.url) as socket:
                await socket.start(sample_rate=SAMPLE_RATE, continuous_decoding=True)
                await socket.send(pcm(speak("ab")).tobytes())
                server.stop(signal.SIGSTOP)
                await asyncio.sleep(6)
                server.stop(signal.SIGCONT)
                await asyncio.sleep(0.5)
                await socket.send(pcm(speak("cd")).tobytes())
                await socket.say(signal="end")
                await socket.rest()
                assert socket.text == "a b c d"

        asyncio.run(run())


@pytest.mark.slow
def test_hundreds_of_hostile_connections_and_honest_sessions(server: ServerProcess) -> None:
    """During half a minute of floods of every kind, texts are exact and memory does not grow."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        form = (
            b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        asked = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100

        async def hostile(head: bytes, data: bytes) -> None:
            while True:
                await flood_for(5, await plain_socket(server), head, data)

        async def frames(data: bytes) -> None:
            while True:
                await flood_for(5, await raw_socket(server), START, data)

        tasks = [
            asyncio.ensure_future(one)
            for one in (
                hostile(CHUNKED, b"1\r\nx\r\n" * 1000),
                hostile(form, b"\n" * 6000),
                hostile(b"", asked),
                frames(frame(9, b"") * 1000),
                frames(frame(2, b"") * 1000),
                frames(b"\x02\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 1000),
            )
        ]
        sizes, end = [], loop.time() + 30
        while loop.time() < end:
            assert all(await asyncio.gather(*(is_exact(server) for _ in range(8))))
            sizes.append(server.memory)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        print(f"MiB: {sizes[0]:.0f} at first, {max(sizes):.0f} at most, {sizes[-1]:.0f} at the end")
        assert sizes[-1] < 1.5 * sizes[0]

        async def nothing_is_left() -> bool:
            return await metric(server.url, "sessions") == 0

        assert await eventually(nothing_is_left)

    asyncio.run(run())
