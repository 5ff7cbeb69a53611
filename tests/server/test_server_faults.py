"""Hostile, slow and disconnected clients at once: no crash, no leak, and exact texts for all other sessions."""

import asyncio
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.hostile_clients import ALL, START_SECONDS, huge_frame, malformed_json, never_reads, vanishes
from support.runtime.server_process import ServerProcess, connected, eventually, metric, pcm, spoken_to


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    model = save_archive(tmp_path / "model.zip")
    with ServerProcess(
        model, "--send_seconds", 1, "--start_seconds", START_SECONDS, "--idle_seconds", 20, "--max_sessions", 64
    ) as started:
        yield started


async def good(server: ServerProcess, seed: int, paced: bool = True) -> str:
    """Run a session of a few seconds; return what is wrong with its text."""
    rng = random.Random(seed)
    text = "".join(rng.choice("abcd") for _ in range(12))
    data = pcm(speak(text)).tobytes()
    async with connected(server.url) as socket:
        await socket.start(sample_rate=SAMPLE_RATE, chunk=rng.choice([4, 8]))
        for start in range(0, len(data), 1600):  # 0.1 s
            await socket.socket.send_bytes(data[start : start + 1600])
            await asyncio.sleep(0.05 if paced else 0)
        await socket.say(signal="end")
        await socket.rest()
        return (
            ""
            if socket.text == " ".join(text) and socket.records[-1].get("type") == "speech_end"
            else str(socket.texts)
        )


async def nothing_is_left(server: ServerProcess) -> bool:
    return await metric(server.url, "sessions") == 0 and await metric(server.url, "waiting_seconds") == 0


def test_one_of_each_fault_at_once(server: ServerProcess) -> None:
    async def run() -> None:
        problems = await asyncio.gather(
            *(fault(server) for fault in ALL), good(server, 1), good(server, 2), good(server, 3, paced=False)
        )
        assert problems == [""] * (len(ALL) + 3)
        assert await eventually(lambda: nothing_is_left(server))
        for reason in ("protocol", "samples", "message_size", "slow_reader", "start_deadline"):
            assert await metric(server.url, f'refusals_total{{reason="{reason}"}}') > 0, reason
        assert any("the client read nothing for 1 s" in line for line in server.log)

    asyncio.run(run())


@pytest.mark.slow
def test_32_hostile_clients_at_once_three_times(server: ServerProcess) -> None:
    """Eight honest clients get exact texts at the same time. After round three there are as many threads and files as
    after round one, and memory has grown by at most the largest messages."""

    async def round_of(seed: int) -> list[str]:
        rng = random.Random(seed)
        faults = [*ALL, *(rng.choice(ALL) for _ in range(32 - len(ALL)))]
        rng.shuffle(faults)
        problems = await asyncio.gather(
            *(fault(server) for fault in faults), *(good(server, 10 * seed + index) for index in range(8))
        )
        names = [fault.__name__ for fault in faults] + ["good"] * 8
        assert await eventually(lambda: nothing_is_left(server))
        return [f"{name}: {problem}" for name, problem in zip(names, problems) if problem]

    sizes = []
    for seed in range(3):
        assert asyncio.run(round_of(seed)) == []
        sizes.append((round(server.memory, 1), server.threads, server.descriptors))
    print(f"MiB, threads, descriptors after each round: {sizes}")
    assert sizes[2][0] < sizes[0][0] + 32 * 2 and sizes[2][1] <= sizes[0][1] + 1 and sizes[2][2] <= sizes[0][2] + 2
    server.stop()
    assert server.wait() == 0


@pytest.mark.slow
def test_many_sessions_in_sequence_leave_no_memory(server: ServerProcess) -> None:
    """400 sessions; a tenth of them are cut off in the middle."""

    async def some(count: int) -> None:
        for index in range(count):
            if index % 10 == 9:
                assert await vanishes(server) == ""
            else:
                assert (await spoken_to(server.url, pcm(speak("abcd")), sample_rate=SAMPLE_RATE)).text == "a b c d"
        assert await eventually(lambda: nothing_is_left(server))

    asyncio.run(some(100))
    before = server.memory
    asyncio.run(some(300))
    print(f"{before:.1f} MiB after 100 sessions, {server.memory:.1f} MiB after 400")
    assert server.memory < 1.05 * before


def test_sigterm_under_load(server: ServerProcess) -> None:
    """Every open session gets all its text; the others get the reason."""

    async def run() -> tuple[list[str], list[str]]:
        begun = [asyncio.ensure_future(good(server, seed)) for seed in range(16)]
        hostile = [
            asyncio.ensure_future(fault(server)) for fault in (malformed_json, vanishes, huge_frame, never_reads)
        ]

        async def fifteen_are_open() -> bool:
            return await metric(server.url, "sessions") >= 16

        assert await eventually(fifteen_are_open)
        server.stop()
        late: list[str] = []
        for _ in range(5):
            try:
                async with connected(server.url) as socket:
                    await socket.say(signal="start")
                    await socket.rest()
                    late.append(socket.failure)
            except (OSError, aiohttp.ClientError):
                late.append("refused")
            await asyncio.sleep(0.05)
        found = await asyncio.gather(*begun)
        await asyncio.gather(*hostile, return_exceptions=True)
        return found, late

    found, late = asyncio.run(run())
    assert found == [""] * 16
    assert all(answer == "refused" or "shutting down" in answer for answer in late)
    assert server.wait() == 0


def test_a_server_that_forgets_to_close_sessions_is_caught(tmp_path: Path) -> None:
    """Planted bug: lost connections leave their session open."""
    script = tmp_path / "serve.py"
    script.write_text(
        "import sys\nfrom wenet_fusion_runtime.server.websocket.connection import Connection\n"
        "Connection._drop = lambda self: None\nfrom wenet_fusion_runtime.cli.__main__ import main\nsys.exit(main())\n"
    )

    async def run(server: ServerProcess) -> float:
        await vanishes(server)
        await asyncio.sleep(0.3)
        return await metric(server.url, "sessions")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.runtime.server_process.PROGRAM", [sys.executable, str(script)])
        with ServerProcess(save_archive(tmp_path / "model.zip")) as server:
            assert asyncio.run(run(server)) == 1
