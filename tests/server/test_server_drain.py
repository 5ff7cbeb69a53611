"""Shutdown of the server: open sessions finish, or are ended with their text so far."""

import asyncio
import json
import signal
from pathlib import Path

import aiohttp
import pytest
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.server_process import ServerProcess, connected, eventually, http, pcm

END = '{"status":"ok","type":"speech_end"}'


def test_sigterm_lets_open_sessions_finish(tmp_path: Path) -> None:
    async def run(server: ServerProcess) -> None:
        async with (
            connected(server.url) as open_one,
            connected(server.url) as not_begun,
            connected(server.url) as stays,
        ):
            for socket in (open_one, stays):
                await socket.start(sample_rate=SAMPLE_RATE)
                await socket.send(pcm(speak("ab")).tobytes())
            server.stop()
            await not_begun.rest()
            assert "shutting down" in not_begun.failure and not_begun.close_code == 1001
            status, _, body = await http("GET", f"{server.url}healthz")  # over a new connection
            assert (status, json.loads(body)) == (503, {"status": "draining", "sessions": 2})
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                async with connected(server.url):
                    pass
            status, headers, body = await http("POST", f"{server.url}transcribe", data=b"RIFF")
            assert status == 503 and b"shutting down" in body and "Retry-After" in headers
            await open_one.send(pcm(speak("cd")).tobytes())
            await open_one.say(signal="end")
            await open_one.rest()
            assert open_one.text == "a b c d" and open_one.texts[-1] == END
            # A session that goes on is ended when the time is over, with its text so far.
            await stays.rest()
            assert stays.text == "a b" and "shutting down" in stays.failure and stays.close_code == 1001

    with ServerProcess(save_archive(tmp_path / "model.zip"), "--drain_seconds", 1.5) as server:
        asyncio.run(run(server))
        assert server.wait() == 0
        assert "clients that were ended before they finished: 1" in "".join(server.log)


def test_balancers_see_the_drain_on_connections_that_they_keep(tmp_path: Path) -> None:
    async def run(server: ServerProcess) -> None:
        async with aiohttp.ClientSession() as balancer, connected(server.url) as socket:
            await socket.start(sample_rate=SAMPLE_RATE)

            async def health() -> tuple[int, dict[str, object]]:
                async with balancer.get(f"{server.url}healthz") as response:
                    return response.status, await response.json()

            assert await health() == (200, {"status": "ok", "sessions": 1})
            server.stop()

            async def is_draining() -> bool:
                return await health() == (503, {"status": "draining", "sessions": 1})

            assert await eventually(is_draining)
            await socket.say(signal="end")
            await socket.rest()

    with ServerProcess(save_archive(tmp_path / "model.zip")) as server:
        asyncio.run(run(server))
        assert server.wait() == 0


def test_a_shared_port_is_left_to_the_other_processes(tmp_path: Path) -> None:
    async def run(server: ServerProcess) -> None:
        async with connected(server.url) as socket:
            await socket.start()
            server.stop()

            async def is_closed() -> bool:
                try:
                    return not await http("GET", f"{server.url}healthz")
                except OSError:
                    return True

            assert await eventually(is_closed)
            await socket.say(signal="end")
            await socket.rest()

    with ServerProcess(save_archive(tmp_path / "model.zip"), "--reuse_port") as server:
        asyncio.run(run(server))
        assert server.wait() == 0


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async def run(server: ServerProcess) -> None:
        async with connected(server.url) as socket:
            await socket.start(sample_rate=SAMPLE_RATE)
            await socket.send(pcm(speak("ab")).tobytes())
            server.stop(signal.SIGINT)
            await asyncio.sleep(0.3)
            server.stop(signal.SIGINT)
            await socket.rest()
            assert socket.text == "a b" and "shutting down" in socket.failure

    with ServerProcess(save_archive(tmp_path / "model.zip"), "--drain_seconds", 600) as server:
        asyncio.run(run(server))
        assert server.wait() == 0
