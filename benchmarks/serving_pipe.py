"""Sessions over one socket: what the serving benchmark uses where a real client has a network. Times nothing.

A message is a header (session, kind, bytes) and that many bytes. Clients send OPEN (JSON: chunk), AUDIO (int16), END and
CLOSE; UPDATE (JSON: the fields of `Heard`) comes back.
"""

import asyncio
import json
import queue
import socket
import struct
import threading
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

import numpy as np
from wenet_fusion_runtime import Backlog, Engine, Recognizer, Session, Unavailable, Update

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


class PipeServer:
    """An engine at one end of a socket. Threads read and write, so that neither clients nor workers wait for each other."""

    def __init__(self, engine: Engine, recognizer: Recognizer, end: socket.socket) -> None:
        self._engine, self._recognizer, self._socket = engine, recognizer, end
        self._sessions: dict[int, Session] = {}
        self._out: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> None:
        """Until the clients have gone. Raises ValueError if they have not within the time."""
        for thread in self._threads:
            thread.join(seconds)
        if any(thread.is_alive() for thread in self._threads):
            raise ValueError(f"the clients were not done after {seconds:g} s")

    def _read(self) -> None:
        with self._socket.makefile("rb") as file:
            while header := file.read(HEADER.size):
                number, kind, size = HEADER.unpack(header)
                self._handle(number, kind, file.read(size))
        for session in self._sessions.values():
            session.close()
        self._out.put(b"")

    def _handle(self, number: int, kind: int, content: bytes) -> None:
        try:
            if kind == OPEN:
                stream = self._recognizer.create_stream(json.loads(content)["chunk"])
                self._sessions[number] = self._engine.open(stream, lambda update: self._send(number, update))
            elif number not in self._sessions:
                return
            elif kind == AUDIO:
                self._sessions[number].push(np.frombuffer(content, np.int16))
            elif kind == END:
                self._sessions.pop(number).end()
            else:
                self._sessions.pop(number).close()
        except (Backlog, Unavailable) as error:
            if session := self._sessions.pop(number, None):
                session.close()
            self._send(number, Update(is_last=True, error=error))

    def _send(self, number: int, update: Update) -> None:
        known = [*update.finals, *([update.partial] if update.partial else [])]
        heard = Heard(
            [result.text for result in update.finals], update.partial.text if update.partial else "",
            known[-1].end_seconds if known else 0.0, update.is_last, str(update.error) if update.error else "",
        )  # fmt: skip
        self._out.put(message(number, UPDATE, json.dumps(asdict(heard)).encode()))

    def _write(self) -> None:
        while content := self._out.get():
            self._socket.sendall(content)
        self._socket.shutdown(socket.SHUT_RDWR)


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
