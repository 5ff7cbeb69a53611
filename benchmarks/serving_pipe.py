"""An engine behind a socket, for the clients of the serving benchmark. Times nothing."""

import json
import queue
import socket
import threading
from dataclasses import asdict

import numpy as np
from serving_wire import AUDIO, END, HEADER, OPEN, UPDATE, Heard, message
from wenet_fusion_runtime import Backlog, Engine, Recognizer, Session, Unavailable, Update


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
