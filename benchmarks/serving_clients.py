"""Clients of the serving benchmark: a process of their own that speaks in real time and notes when it hears what.

Reads a plan as JSON from standard input, writes what it found as JSON to standard output. Knows no engine.
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
from typing import Protocol

import numpy as np
from serving_wire import Heard, PipeTransport

PIECE_SECONDS = 0.08
PATIENCE = 30.0  # seconds for the last update


@dataclass(frozen=True)
class Plan:
    """What the clients do."""

    descriptor: int  # of the socket
    recordings: str  # .npz of int16 arrays named 0, 1, ...
    sample_rate: int
    chunk: int  # encoder frames
    sessions: int  # at the same time
    seconds: float  # after which no new session begins and no delay counts
    spread_seconds: float  # within which the first ones begin
    seed: int


@dataclass
class Found:
    """Seconds, and one text for each session. The clock is that of the clients alone."""

    delays: list[float] = field(default_factory=list)  # from when a block was spoken to its partial result
    firsts: list[float] = field(default_factory=list)  # the first of these of each session
    lasts: list[float] = field(default_factory=list)  # from the last sample to the last update
    lateness: list[float] = field(default_factory=list)  # of the clients themselves: sent after it was spoken
    texts: list[tuple[int, str]] = field(default_factory=list)  # recording and what was heard
    errors: list[str] = field(default_factory=list)
    processor_seconds: float = 0.0


class Connection(Protocol):
    """One session, whatever carries it."""

    async def send(self, samples: np.ndarray) -> None: ...

    async def end(self) -> None: ...

    def heard(self) -> AsyncIterator[Heard]: ...


class Transport(Protocol):
    async def connect(self, chunk: int) -> Connection: ...

    async def close(self) -> None: ...


class Clients:
    """All sessions of a plan, and what they found."""

    def __init__(self, plan: Plan, transport: Transport, recordings: list[np.ndarray]) -> None:
        self._plan, self._transport, self._recordings = plan, transport, recordings
        self._begin = time.monotonic()
        self.found = Found()

    async def run(self) -> None:
        await asyncio.gather(*map(self._slot, range(self._plan.sessions)))

    @property
    def _counts(self) -> bool:
        """Later there are fewer sessions at the same time."""
        return time.monotonic() - self._begin < self._plan.seconds

    async def _slot(self, number: int) -> None:
        """One session after the other."""
        await asyncio.sleep(random.Random(f"{self._plan.seed} {number}").uniform(0, self._plan.spread_seconds))
        for index in itertools.count(number * 7919):
            await self._speak(index % len(self._recordings))
            if not self._counts:
                return

    async def _speak(self, index: int) -> None:
        """One session in real time: a piece is sent when its last sample has been spoken."""
        samples, rate = self._recordings[index], self._plan.sample_rate
        connection, size = await self._transport.connect(self._plan.chunk), round(PIECE_SECONDS * rate)
        start, duration = time.monotonic(), len(samples) / rate
        listening = asyncio.create_task(self._listen(connection, index, start, duration))
        for begin in range(0, len(samples), size):
            due = start + min(begin + size, len(samples)) / rate
            await asyncio.sleep(due - time.monotonic())
            if self._counts:
                self.found.lateness.append(time.monotonic() - due)
            await connection.send(samples[begin : begin + size])
        await connection.end()
        try:
            await asyncio.wait_for(listening, PATIENCE)
        except asyncio.TimeoutError:
            self.found.errors.append(f"no last update came within {PATIENCE:g} s")

    async def _listen(self, connection: Connection, index: int, start: float, duration: float) -> None:
        texts, is_first = [], True
        async for heard in connection.heard():
            texts += [text for text in heard.finals if text]
            if heard.error:
                self.found.errors.append(heard.error)
            elif self._counts:
                self._note(heard, start, duration, is_first)
            is_first = False
        self.found.texts.append((index, " ".join(texts)))

    def _note(self, heard: Heard, start: float, duration: float, is_first: bool) -> None:
        now = time.monotonic()
        if heard.is_last:
            self.found.lasts.append(now - start - duration)
        elif heard.end_seconds <= duration:
            # A block that ends within a piece is complete when the piece was spoken.
            pieces = math.ceil(heard.end_seconds / PIECE_SECONDS - 1e-6)
            delay = now - start - min(duration, pieces * PIECE_SECONDS)
            self.found.delays.append(delay)
            if is_first:
                self.found.firsts.append(delay)


async def run(plan: Plan) -> Found:
    with np.load(Path(plan.recordings)) as arrays:
        recordings = [arrays[str(index)] for index in range(len(arrays))]
    transport = await PipeTransport.open(plan.descriptor)
    clients = Clients(plan, transport, recordings)
    await clients.run()
    await transport.close()
    clients.found.processor_seconds = time.process_time()
    return clients.found


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(Plan(**json.loads(sys.stdin.read())))))))
