"""Clients of the serving benchmark: a process of their own that speaks in real time and notes when it hears what.

Reads a plan as JSON from standard input, writes what it found as JSON to standard output. Knows no engine.
"""

import asyncio
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
from serving_pipe import Heard, PipeTransport

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
    seconds: float  # after which no new session begins
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


async def speak(plan: Plan, connection: Connection, index: int, samples: np.ndarray, found: Found) -> None:
    """One session in real time: a piece is sent when its last sample has been spoken."""
    size, start = round(PIECE_SECONDS * plan.sample_rate), time.monotonic()
    duration = len(samples) / plan.sample_rate
    listening = asyncio.create_task(listen(connection, index, start, duration, found))
    for begin in range(0, len(samples), size):
        due = start + min(begin + size, len(samples)) / plan.sample_rate
        await asyncio.sleep(due - time.monotonic())
        found.lateness.append(time.monotonic() - due)
        await connection.send(samples[begin : begin + size])
    await connection.end()
    try:
        await asyncio.wait_for(listening, PATIENCE)
    except asyncio.TimeoutError:
        found.errors.append("no last update came")


async def listen(connection: Connection, index: int, start: float, duration: float, found: Found) -> None:
    texts, is_first = [], True
    async for heard in connection.heard():
        now = time.monotonic()
        texts += [text for text in heard.finals if text]
        if heard.error:
            found.errors.append(heard.error)
        elif heard.is_last:
            found.lasts.append(now - start - duration)
        elif heard.end_seconds <= duration:
            # A block that ends within a piece is complete when the piece was spoken.
            spoken = start + min(duration, math.ceil(heard.end_seconds / PIECE_SECONDS - 1e-6) * PIECE_SECONDS)
            found.delays.append(now - spoken)
            if is_first:
                found.firsts.append(now - spoken)
            is_first = False
    found.texts.append((index, " ".join(texts)))


async def slot(number: int, plan: Plan, transport: Transport, recordings: list[np.ndarray], found: Found) -> None:
    """One session after the other."""
    start = time.monotonic()
    await asyncio.sleep(random.Random(f"{plan.seed} {number}").uniform(0, plan.spread_seconds))
    index = number * 7919
    while index == number * 7919 or time.monotonic() - start < plan.seconds:
        chosen = index % len(recordings)
        await speak(plan, await transport.connect(plan.chunk), chosen, recordings[chosen], found)
        index += 1


async def run(plan: Plan) -> Found:
    with np.load(Path(plan.recordings)) as arrays:
        recordings = [arrays[str(index)] for index in range(len(arrays))]
    transport, found = await PipeTransport.open(plan.descriptor), Found()
    await asyncio.gather(*(slot(number, plan, transport, recordings, found) for number in range(plan.sessions)))
    await transport.close()
    found.processor_seconds = time.process_time()
    return found


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(Plan(**json.loads(sys.stdin.read())))))))
