"""Start the server in a process, and connect to it as WeNet's clients do."""

import asyncio
import io
import json
import os
import re
import signal
import socket as sockets
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import soundfile

PROGRAM = [sys.executable, "-m", "wenet_fusion_runtime.cli"]
PATIENCE = 30.0  # seconds until a test gives up
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)


class ServerProcess:
    """`wenet-fusion-runtime serve MODEL --port 0 ...` on loopback, within `with`."""

    def __init__(self, model: Path, *flags: object, environment: dict[str, str] | None = None) -> None:
        command = [*PROGRAM, "serve", str(model), "--port", "0", "--workers", "1", *map(str, flags)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"} | (environment or {}),
        )
        self.log: list[str] = []
        self._reader = threading.Thread(
            target=lambda: self.log.extend(iter(self.process.stderr.readline, "")), daemon=True
        )
        self._reader.start()
        line = self.process.stdout.readline()  # empty if the process has ended
        found = re.fullmatch(r"listening on (https?://[^/]+):(\d+)/\n", line)
        if found is None:
            self.kill()
            raise AssertionError(f"the server did not start: {line!r}\n{''.join(self.log)}")
        self.url, self.port = line.split()[-1], int(found[2])

    @property
    def memory(self) -> float:
        """Resident memory in MiB."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    @property
    def threads(self) -> int:
        return psutil.Process(self.process.pid).num_threads()

    @property
    def descriptors(self) -> int:
        """Open files and sockets."""
        return psutil.Process(self.process.pid).num_fds()

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Return the exit status; raise if the process does not end in time."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not end in {seconds:g} s\n{''.join(self.log)[-4000:]}") from None
        self._reader.join(seconds)
        return status

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self.process.stdout.close()
        self.process.stderr.close()
        assert "Traceback" not in "".join(self.log), "".join(self.log)


class Socket:
    """A WebSocket to the server that keeps every received text message."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.texts: list[str] = []
        self.close_code: int | None = None
        self.close_reason = ""

    async def say(self, **record: Any) -> None:
        await self.socket.send_str(json.dumps(record))

    async def start(self, **record: Any) -> None:
        """Send the start signal and check the reply."""
        await self.say(signal="start", **record)
        assert await self.receive() == '{"status":"ok","type":"server_ready"}', self.texts

    async def send(self, data: bytes, piece: int = 3200) -> None:
        for start in range(0, len(data), piece):
            await self.socket.send_bytes(data[start : start + piece])

    async def receive(self) -> str | None:
        """Return the next text message; None once the server has closed."""
        message = await asyncio.wait_for(self.socket.receive(), PATIENCE)
        if message.type is aiohttp.WSMsgType.TEXT:
            self.texts.append(message.data)
            return message.data
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR), message
        self.close_code, self.close_reason = self.socket.close_code, message.extra or ""
        return None

    async def rest(self) -> list[dict[str, Any]]:
        """Receive until the server closes; return all messages."""
        while await self.receive() is not None:
            pass
        return self.records

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.texts]

    @property
    def failure(self) -> str:
        """The server's error message."""
        last = self.records[-1]
        assert last["status"] == "failed" and last.keys() == {"status", "message"}, self.texts
        return last["message"]

    @property
    def text(self) -> str:
        """The text of all final results."""
        finals = [
            json.loads(record["nbest"])[0]["sentence"]
            for record in self.records
            if record.get("type") == "final_result"
        ]
        return " ".join(filter(None, finals))


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Socket]:
    """Open a WebSocket to `ServerProcess.url`."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=2.0), **options) as socket,
    ):
        yield Socket(socket)


async def spoken_to(url: str, samples: np.ndarray, piece: int = 3200, **options: Any) -> Socket:
    """Run a whole session: start, audio, end and all replies. `samples` have the type that the session sends."""
    async with connected(url) as socket:
        await socket.start(**options)
        await socket.send(samples.tobytes(), piece)
        await socket.say(signal="end")
        await socket.rest()
        return socket


async def http(method: str, url: str, **options: Any) -> tuple[int, Mapping[str, str], bytes]:
    """Return status, headers and body of a request."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.request(method, url, **options) as response:
        return response.status, response.headers, await response.read()


async def metric(url: str, name: str) -> float:
    """Return one value of /metrics."""
    _, _, body = await http("GET", f"{url}metrics")
    lines = [line for line in body.decode().splitlines() if line.startswith(f"wenet_fusion_{name} ")]
    assert len(lines) == 1, name
    return float(lines[0].split()[1])


async def eventually(condition: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
    end = time.monotonic() + PATIENCE
    while not (found := await condition()) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    return found


def pcm(samples: np.ndarray) -> np.ndarray:
    """Convert float32 samples to 16-bit little-endian."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2")


def encoded(samples: np.ndarray, rate: int, form: str = "WAV") -> bytes:
    """Return an audio file as bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form)
    return buffer.getvalue()


def frame(opcode: int, payload: bytes, length: int | None = None) -> bytes:
    """Return a client's frame, masked with zeros; `length` is the length in its header."""
    length = len(payload) if length is None else length
    if length < 126:
        size = bytes([128 | length])
    else:
        size = bytes([254]) + length.to_bytes(2, "big") if length < 65536 else bytes([255]) + length.to_bytes(8, "big")
    return bytes([128 | opcode]) + size + bytes(4) + payload


async def raw_socket(server: ServerProcess, receive_buffer: int | None = None) -> sockets.socket:
    """Open a WebSocket without a library, so that only the caller reads from it."""
    raw = sockets.socket()
    if receive_buffer is not None:
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, receive_buffer)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", server.port))
    await loop.sock_sendall(raw, UPGRADE)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await asyncio.wait_for(loop.sock_recv(raw, 1), PATIENCE)
    return raw
