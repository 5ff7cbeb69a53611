"""Sessions over one socket: what the serving benchmark's clients use where real ones have a network. Knows no engine.

A message is a header (session, kind, bytes) and that many bytes. Clients send OPEN (JSON: chunk), AUDIO (int16), END and
CLOSE; UPDATE (JSON: the fields of `Heard`) comes back.
"""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np

HEADER = struct.Struct("<IBI")
OPEN, AUDIO, END, CLOSE, UPDATE = range(5)


@dataclass(frozen=True)
class Heard:
    """An update as it crosses the wire."""

    finals: list[str]
    partial: str
    end_seconds: float  # up to where the audio is decoded
    is_last: bool
    error: str


def message(number: int, kind: int, content: bytes) -> bytes:
    return HEADER.pack(number, kind, len(content)) + content


class PipeConnection:
    """A client's session."""

    def __init__(self, number: int, writer: asyncio.StreamWriter) -> None:
        self._number, self._writer = number, writer
        self.inbox: asyncio.Queue[Heard] = asyncio.Queue()

    async def send(self, samples: np.ndarray) -> None:
        """int16 samples."""
        self._writer.write(message(self._number, AUDIO, samples.tobytes()))
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(message(self._number, END, b""))

    async def heard(self) -> AsyncIterator[Heard]:
        """Updates until the last one."""
        while True:
            heard = await self.inbox.get()
            yield heard
            if heard.is_last:
                return


class PipeTransport:
    """All sessions of a client process over one socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._connections: dict[int, PipeConnection] = {}
        self._count = 0
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, descriptor: int) -> "PipeTransport":
        return cls(*await asyncio.open_connection(sock=socket.socket(fileno=descriptor)))

    async def connect(self, chunk: int) -> PipeConnection:
        self._count += 1
        connection = self._connections[self._count] = PipeConnection(self._count, self._writer)
        self._writer.write(message(self._count, OPEN, json.dumps({"chunk": chunk}).encode()))
        return connection

    async def _read(self) -> None:
        while True:
            number, _, size = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            heard = Heard(**json.loads(await self._reader.readexactly(size)))
            self._connections[number].inbox.put_nowait(heard)
            if heard.is_last:
                del self._connections[number]

    async def close(self) -> None:
        self._reading.cancel()
        self._writer.close()
