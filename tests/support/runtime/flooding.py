"""Connections that send without end, and the server that they meet."""

import asyncio
import contextlib
import socket as sockets
from pathlib import Path
from typing import Any

from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.server_process import ServerProcess, frame, pcm, spoken_to

START = frame(1, b'{"signal":"start","continuous_decoding":true}')
CHUNKED = b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def flooded_server(folder: Path) -> ServerProcess:
    """Start a server with the default deadlines."""
    return ServerProcess(save_archive(folder / "model.zip"), "--max_upload_bytes", 1_000_000)


async def plain_socket(server: Any) -> sockets.socket:
    """Open a connection that sends no request yet; the server has a `port`."""
    raw = sockets.socket()
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", server.port))
    return raw


async def flood(raw: sockets.socket, data: bytes) -> None:
    """Send data until the server hangs up."""
    with contextlib.suppress(ConnectionError):
        while True:
            await asyncio.get_running_loop().sock_sendall(raw, data)


async def flood_for(seconds: float, raw: sockets.socket, head: bytes, data: bytes) -> None:
    """Send a head, then data for some time, then hang up."""
    try:
        await asyncio.get_running_loop().sock_sendall(raw, head)
        await asyncio.wait_for(flood(raw, data), seconds)
    except (ConnectionError, asyncio.TimeoutError):
        pass
    finally:
        raw.close()


async def is_exact(server: ServerProcess) -> bool:
    """Run an honest session; return whether its text is right."""
    return (await spoken_to(server.url, pcm(speak("abcd")), sample_rate=SAMPLE_RATE)).text == "a b c d"
