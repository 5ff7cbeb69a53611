"""Clients that break the protocol, stop reading or disappear; each returns the server's mistake, or an empty text."""

import asyncio
import contextlib
import json
import random
import socket as sockets
import struct
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.server_process import (
    PATIENCE,
    ServerProcess,
    connected,
    encoded,
    frame,
    http,
    pcm,
    raw_socket,
    spoken_to,
)

START_SECONDS = 6  # option of the server; an honest client on a busy machine may need more than two seconds


async def malformed_json(server: ServerProcess) -> str:
    async with connected(server.url) as socket:
        await socket.socket.send_str('{"signal":"start"')
        await socket.rest()
        return "" if "is not JSON" in socket.failure else socket.failure


async def wrong_order(server: ServerProcess) -> str:
    async with connected(server.url) as socket:
        await socket.send(bytes(4000))
        await socket.rest()
        return "" if socket.failure == "Start signal is expected before binary data" else socket.failure


async def start_twice(server: ServerProcess) -> str:
    async with connected(server.url) as socket:
        await socket.start()
        await socket.send(bytes(4000))
        await socket.say(signal="start")
        await socket.rest()
        return "" if "Unexpected start signal" in socket.failure else socket.failure


async def odd_bytes(server: ServerProcess) -> str:
    data = pcm(speak("abcd")).tobytes() + b"\x00"
    rng = random.Random(0)
    async with connected(server.url) as socket:
        await socket.start(sample_rate=SAMPLE_RATE)
        while data:
            size = rng.randrange(1, 2000, 2)
            await socket.socket.send_bytes(data[:size])
            data = data[size:]
        await socket.say(signal="end")
        await socket.rest()
        return "" if socket.text == "a b c d" else socket.text


async def huge_frame(server: ServerProcess) -> str:
    """Send a frame of 100 MB until the server hangs up, and read its answer at the same time."""
    raw = await raw_socket(server)
    reader, writer = await asyncio.open_connection(sock=raw)
    answering = asyncio.ensure_future(_until_closed(reader))
    try:
        writer.write(frame(1, b'{"signal":"start"}') + frame(2, b"", 100_000_000))
        for _ in range(100):
            writer.write(bytes(1_000_000))
            await writer.drain()
    except ConnectionError:
        pass  # the server has hung up
    answer = await asyncio.wait_for(answering, PATIENCE)
    writer.close()
    return "" if b'"message":"a message has more than 2097152 bytes' in answer and b"\x88" in answer else repr(answer)


async def _until_closed(reader: asyncio.StreamReader) -> bytes:
    found = b""
    try:
        while data := await reader.read(65536):
            found += data
    except ConnectionError:
        pass
    return found


async def many_fragments(server: ServerProcess) -> str:
    """Send a message of many small frames that never ends."""
    reader, writer = await asyncio.open_connection(sock=await raw_socket(server))
    answering = asyncio.ensure_future(_until_closed(reader))
    try:
        writer.write(
            frame(1, b'{"signal":"start"}') + b"\x02" + frame(2, bytes(100))[1:]
        )  # without the bit that marks the last fragment
        for _ in range(100):
            writer.write(b"\x00" + frame(2, bytes(30000))[1:])
            await writer.drain()
    except ConnectionError:
        pass
    answer = await asyncio.wait_for(answering, PATIENCE)
    writer.close()
    return "" if b"more than 2097152 bytes" in answer else repr(answer[-200:])


async def never_reads(server: ServerProcess) -> str:
    """Read nothing, so that the results of one-frame segments fill the buffers of both systems."""
    raw, loop = await raw_socket(server, 4096), asyncio.get_running_loop()
    rules = {"rule1_seconds": 0.04, "rule2_seconds": 0.04, "rule3_seconds": 0.04}
    start = {
        "signal": "start",
        "sample_rate": SAMPLE_RATE,
        "continuous_decoding": True,
        "timestamps": True,
        "endpoint": rules,
    }
    try:
        await loop.sock_sendall(raw, frame(1, json.dumps(start).encode()))
        end = loop.time() + PATIENCE
        while loop.time() < end:
            await asyncio.wait_for(loop.sock_sendall(raw, frame(2, bytes(2 * SAMPLE_RATE))), PATIENCE)
    except ConnectionError:
        return ""
    finally:
        raw.close()
    return "it was never cut"


async def uploads_and_never_reads(server: ServerProcess) -> str:
    """Upload, and do not read the streamed response: its one-frame segments fill the buffers of both systems."""
    body = encoded(np.zeros(120 * SAMPLE_RATE, np.float32), SAMPLE_RATE)
    rules = quote(json.dumps({"rule1_seconds": 0.04, "rule3_seconds": 0.04}))
    head = f"POST /transcribe?stream=true&endpoint={rules} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    raw, loop = sockets.socket(), asyncio.get_running_loop()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.setblocking(False)
    try:
        await loop.sock_connect(raw, ("127.0.0.1", server.port))
        await loop.sock_sendall(raw, head.encode() + body)
        for _ in range(round(PATIENCE / 0.05)):
            if any("/transcribe" in line and "refused (slow_reader)" in line for line in server.log):
                return ""
            await asyncio.sleep(0.05)
    finally:
        raw.close()
    return "it was never cut"


async def vanishes(server: ServerProcess) -> str:
    """Reset the connection in the middle of a session."""
    async with connected(server.url) as socket:
        await socket.start(sample_rate=SAMPLE_RATE)
        await socket.send(pcm(speak("abc")).tobytes())
        opened = socket.socket.get_extra_info("socket")
        opened.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket._conn.transport.abort()
    return ""


async def silent(server: ServerProcess) -> str:
    async with connected(server.url) as socket:
        await socket.rest()
        return "" if socket.failure == f"no start signal came within {START_SECONDS} s" else socket.failure


async def bad_upload(server: ServerProcess) -> str:
    status, _, body = await http("POST", f"{server.url}transcribe", data=b"RIFF" + bytes(1000))
    return "" if status == 400 and b"cannot be read as audio" in body else repr((status, body))


QUICK = (malformed_json, wrong_order, start_twice, odd_bytes, vanishes, bad_upload)
ALL = (*QUICK, huge_frame, many_fragments, never_reads, uploads_and_never_reads, silent)


# ---- floods

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
