"""Honest sessions during hostile uploads and floods: exact texts in time, and constant memory.

It takes a minute by default. Ten minutes give numbers to report:

    WENET_FUSION_SOAK_SECONDS=600 python -m pytest -q -s -m slow tests/server/test_server_soak.py
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.runtime import soak_attacks
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.server_process import PATIENCE, ServerProcess, connected, encoded, eventually, http, metric, pcm
from wenet_fusion_runtime.server.settings import Settings

SECONDS = float(os.environ.get("WENET_FUSION_SOAK_SECONDS", "60"))
PER_MINUTE, UPLOADS = 200, 10  # honest sessions; every tenth of them is an upload
PIECE_SECONDS = 0.1
WARM_UP = 0.4  # share of the time after which memory must not grow; the narrow bound needs 5 minutes
GROWTH = 1.05 if SECONDS >= 300 else 1.6  # in a short run, the memory still warms up
LATE = 5.0  # seconds, limit for 95 % of the waits; the goals on an idle machine are 0.5 s and 0.2 s


class Soak:
    """The experience of a server's honest clients."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.problems: list[str] = []
        self.last_texts: list[float] = []  # seconds from the end of the audio to its last text
        self.health: list[float] = []  # seconds until /healthz answered
        self.memory: list[float] = []  # MiB of the server, a value per second
        self.sessions = self.uploads = 0

    async def session(self, text: str) -> None:
        """Stream a recording in real time."""
        data, size = pcm(speak(text)).tobytes(), round(2 * SAMPLE_RATE * PIECE_SECONDS)
        loop = asyncio.get_running_loop()
        async with connected(self.server.url) as socket:
            await socket.start(sample_rate=SAMPLE_RATE, chunk=random.choice([4, 8]))
            due = loop.time()
            for start in range(0, len(data), size):
                due += PIECE_SECONDS
                await asyncio.sleep(max(0.0, due - loop.time()))
                await socket.socket.send_bytes(data[start : start + size])
            ended = loop.time()
            await socket.say(signal="end")
            while (message := await socket.receive()) is not None:
                if '"final_result"' in message:
                    self.last_texts.append(loop.time() - ended)
            self.sessions += 1
            if socket.text != " ".join(text):
                self.problems.append(f"{text}: {socket.texts[-2:]}")

    async def upload(self, text: str) -> None:
        status, _, body = await http(
            "POST", f"{self.server.url}transcribe", data=encoded(speak(text), SAMPLE_RATE, "FLAC")
        )
        self.uploads += 1
        if status != 200 or json.loads(body)["text"] != " ".join(text):
            self.problems.append(f"upload {text}: {status} {body[:300]!r}")

    async def run(self, seconds: float) -> None:
        """Begin sessions at a constant rate, and watch health and memory."""
        rng, loop = random.Random(0), asyncio.get_running_loop()
        tasks: list[asyncio.Future[None]] = []
        watching = [asyncio.ensure_future(one()) for one in (self._watch_health, self._watch_memory)]
        begun = loop.time()
        for number in range(round(seconds / 60 * PER_MINUTE)):
            await asyncio.sleep(max(0.0, begun + number * 60 / PER_MINUTE - loop.time()))
            text = "".join(rng.choice("abcd") for _ in range(12))
            tasks.append(
                asyncio.ensure_future(self._guarded(self.upload if number % UPLOADS == 9 else self.session, text))
            )
        await asyncio.gather(*tasks)
        for one in watching:
            one.cancel()

    async def _guarded(self, one: Callable[[str], Awaitable[None]], text: str) -> None:
        try:
            await one(text)
        except Exception as error:
            self.problems.append(f"{text}: {error!r}"[:500])

    async def _watch_health(self) -> None:
        while True:
            begun = time.monotonic()
            status, _, body = await http("GET", f"{self.server.url}healthz")
            self.health.append(time.monotonic() - begun)
            if status != 200:
                self.problems.append(f"/healthz: {status} {body!r}")
            await asyncio.sleep(0.3)

    async def _watch_memory(self) -> None:
        while True:
            self.memory.append(self.server.memory)
            await asyncio.sleep(1.0)

    @property
    def growth(self) -> float:
        """Return the median memory in the last tenth of the time, relative to the median after the warm-up."""
        tenth, warm = max(1, len(self.memory) // 10), int(WARM_UP * len(self.memory))
        return float(np.median(self.memory[-tenth:]) / np.median(self.memory[warm : warm + tenth]))

    def report(self) -> str:
        """Return the numbers, one kind a line."""
        lines = [f"{self.sessions} sessions and {self.uploads} uploads, {len(self.problems)} with a problem"]
        lines += self.problems[:5]
        for name, values in (("last text", self.last_texts), ("/healthz", self.health)):
            shown = " / ".join(f"{np.quantile(values, share):.3f}" for share in (0.5, 0.95, 1.0))
            lines.append(f"{name}: {shown} s (50 / 95 / 100 %)")
        tenths = [f"{np.median(part):.1f}" for part in np.array_split(self.memory, min(10, len(self.memory)))]
        return "\n".join([*lines, f"MiB in tenths of the time: {', '.join(tenths)}; growth {self.growth:.3f}"])


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
def test_honest_sessions_beside_all_attacks(tmp_path: Path) -> None:
    async def nothing_is_left() -> bool:
        return await metric(server.url, "sessions") == 0 and await metric(server.url, "waiting_seconds") == 0

    async def no_decoder_is_left() -> bool:
        starters = psutil.Process(server.process.pid).children()
        return len(starters) <= 1 and not any(starter.children() for starter in starters)

    with ServerProcess(save_archive(tmp_path / "model.zip")) as server:
        quiet, soak = Soak(server), Soak(server)
        asyncio.run(quiet.run(max(6.0, SECONDS / 20)))
        print(f"\nload {os.getloadavg()[0]:.1f}; without attacks:\n{quiet.report()}")
        command = [sys.executable, "-m", soak_attacks.__name__, str(server.port), str(SECONDS + 2)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as hostile:
            try:
                assert hostile.stdout.readline() == "ready\n"
                asyncio.run(soak.run(SECONDS))
                counts = json.loads(hostile.communicate(timeout=PATIENCE + SECONDS)[0])
            finally:
                hostile.kill()
        print(
            f"load {os.getloadavg()[0]:.1f}; beside {sum(counts.values())} hostile clients:\n{soak.report()}\n{counts}"
        )
        assert asyncio.run(eventually(nothing_is_left)) and asyncio.run(eventually(no_decoder_is_left))
        assert quiet.problems == soak.problems == []
        assert min(counts[name] for name, *_ in soak_attacks.ATTACKS) > 0
        assert np.quantile(soak.last_texts, 0.95) < LATE and np.quantile(soak.health, 0.95) < LATE
        assert soak.growth < GROWTH
        server.stop()
        # Data of attackers that have hung up still arrive from their system's buffers; they end with the drain.
        assert server.wait(Settings().drain_seconds + PATIENCE) == 0, "".join(server.log)[-2000:]
