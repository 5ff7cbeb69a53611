"""The clients of the serving benchmark: a program that sends speech in real time and records when each result arrives.

It reads a `ClientPlan` as JSON from standard input, and writes `ClientMeasurements` as JSON to standard output.
"""

import asyncio
import itertools
import json
import math
import random
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

PIECE_SECONDS = 0.08  # seconds of audio per message
PATIENCE = 30.0  # timeout for an answer, in seconds


@dataclass(frozen=True)
class ClientPlan:
    """The server, the recordings and the sessions of one run."""

    url: str
    recordings: str  # .npz of int16 arrays named 0, 1, ...
    sample_rate: int
    chunk: int  # encoder frames
    sessions: int  # number of simultaneous sessions
    seconds: float  # after this time, no session begins and no delay counts
    spread_seconds: float  # the first sessions begin at random times within these seconds
    seed: int


@dataclass
class ClientMeasurements:
    """The measurements of the clients, in seconds of their clock, and the text of each session."""

    delays: list[float] = field(default_factory=list)  # from the end of a chunk's speech to its result
    firsts: list[float] = field(default_factory=list)  # first delay of each session
    lasts: list[float] = field(default_factory=list)  # from the last sample to the end of the session
    lateness: list[float] = field(default_factory=list)  # from the end of a piece's speech until the piece is sent
    texts: list[tuple[int, str]] = field(default_factory=list)  # index of the recording, recognised text
    errors: list[str] = field(default_factory=list)
    processor_seconds: float = 0.0


class Clients:
    """Runs all sessions of a plan and collects the results."""

    def __init__(self, plan: ClientPlan, http: aiohttp.ClientSession, recordings: list[np.ndarray]) -> None:
        self._plan, self._http, self._recordings = plan, http, recordings
        self._begin = time.monotonic()
        self.found = ClientMeasurements()

    async def run(self) -> None:
        await asyncio.gather(*map(self._slot, range(self._plan.sessions)))

    @property
    def _counts(self) -> bool:
        """Whether measurements count: until `ClientPlan.seconds`, after which the number of sessions falls."""
        return time.monotonic() - self._begin < self._plan.seconds

    async def _slot(self, number: int) -> None:
        """Run sessions one after the other."""
        await asyncio.sleep(random.Random(f"{self._plan.seed} {number}").uniform(0, self._plan.spread_seconds))
        for index in itertools.count(number * 7919):
            try:
                await self._session(index % len(self._recordings))
            except (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError) as error:
                self.found.errors.append(repr(error))
            if not self._counts:
                return

    async def _session(self, index: int) -> None:
        """Send one recording in real time: a piece is sent when its last sample would have been spoken."""
        samples, rate = self._recordings[index], self._plan.sample_rate
        async with self._http.ws_connect(self._plan.url, max_msg_size=0) as socket:
            start_signal = {"signal": "start", "nbest": 1, "continuous_decoding": True, "timestamps": True}
            await socket.send_json(start_signal | {"sample_rate": rate, "chunk": self._plan.chunk})
            ready = await socket.receive_json(timeout=PATIENCE)
            if ready["status"] != "ok":
                self.found.errors.append(ready["message"])
                return
            size, start, duration = round(PIECE_SECONDS * rate), time.monotonic(), len(samples) / rate
            listening = asyncio.create_task(self._listen(socket, index, start, duration))
            for begin in range(0, len(samples), size):
                due = start + min(begin + size, len(samples)) / rate
                await asyncio.sleep(due - time.monotonic())
                if self._counts:
                    self.found.lateness.append(time.monotonic() - due)
                await socket.send_bytes(samples[begin : begin + size].tobytes())
            await socket.send_json({"signal": "end"})
            await asyncio.wait_for(listening, PATIENCE)

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse, index: int, start: float, duration: float) -> None:
        texts, is_first, covered = [], True, 0.0
        async for record in _records(socket):
            now, end = time.monotonic(), record.get("end", 0.0)
            if record["status"] != "ok":
                self.found.errors.append(record["message"])
            elif record["type"] == "speech_end":
                self.found.texts.append((index, " ".join(filter(None, texts))))
                if self._counts:
                    self.found.lasts.append(now - start - duration)
                return
            if record.get("type") == "final_result":
                texts.append(json.loads(record["nbest"])[0]["sentence"])
            if covered < end <= duration and self._counts:
                # A chunk that ends within a piece is complete only when the whole piece is sent.
                delay = now - start - min(duration, math.ceil(end / PIECE_SECONDS - 1e-6) * PIECE_SECONDS)
                self.found.delays.append(delay)
                if is_first:
                    self.found.firsts.append(delay)
            covered, is_first = max(covered, end), False
        self.found.errors.append(f"the server closed the connection, code {socket.close_code}")


async def _records(socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[dict[str, Any]]:
    async for message in socket:
        yield json.loads(message.data)


async def run(plan: ClientPlan) -> ClientMeasurements:
    with np.load(Path(plan.recordings)) as arrays:
        recordings = [arrays[str(index)] for index in range(len(arrays))]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        clients = Clients(plan, http, recordings)
        begin = time.process_time()
        await clients.run()
        clients.found.processor_seconds = time.process_time() - begin
        return clients.found


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(ClientPlan(**json.loads(sys.stdin.read())))))))
