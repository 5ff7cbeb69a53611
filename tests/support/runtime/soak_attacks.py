"""Hostile uploads and floods against a server for some time, in a process of their own.

    python -m support.runtime.soak_attacks PORT SECONDS

Prints how often each attack ran.
"""

import asyncio
import contextlib
import functools
import io
import json
import random
import socket as sockets
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import aiohttp
import numpy as np
import soundfile
from support.runtime.hostile_clients import CHUNKED, QUICK, START, huge_frame, many_fragments, never_reads, plain_socket
from support.runtime.server_process import connected, frame, http, raw_socket

FLOOD_SECONDS, FLOOD_BYTES = 10.0, 1_000_000  # seconds per connection, bytes per second
CUT_SECONDS = (0.02, 1.0)  # shortest and longest time after which a client hangs up
REFUSED = (OSError, EOFError, AssertionError, ValueError, asyncio.TimeoutError, aiohttp.ClientError)


class Target(NamedTuple):
    """The server, as `hostile_clients` addresses it."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


SUBTYPES = {"FLAC": "PCM_16", "MP3": "MPEG_LAYER_III", "OGG": "OPUS"}
Attack = Callable[[Target], Awaitable[object]]


@functools.cache
def long_recording(form: str) -> bytes:
    """Return two minutes of stereo at 48 kHz; ten minutes if the format is FLAC."""
    piece = (3000 * np.random.default_rng(0).standard_normal((48000, 2))).astype(np.int16)
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 48000, 2, format=form, subtype=SUBTYPES[form]) as sound:
        for second in range(600 if form == "FLAC" else 120):
            sound.write(np.roll(piece, second, axis=0) // (1 if second % 10 == 0 else 50))
    return file.getvalue()


def wav(rate: int, size: int) -> bytes:
    """Return a WAV file whose header states this rate."""
    header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, rate, 0, 2, 16)
    return header + struct.pack("<4sI", b"data", size) + bytes(size)


def w64() -> bytes:
    """Return the first bytes of a file that states years of audio."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(4000, np.float32), 16000, format="W64", subtype="IMA_ADPCM")
    content = bytearray(file.getvalue()[:163])
    place = content.index(b"data") + 16
    content[16:24] = content[place : place + 8] = struct.pack("<Q", 1 << 62)
    return bytes(content)


# ---- attacks


async def hangs_up(target: Target, form: str) -> None:
    """Send an upload and hang up while it is decoded."""
    body = long_recording(form)
    _, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        writer.write(b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        await asyncio.sleep(random.uniform(*CUT_SECONDS))
    finally:
        writer.transport.abort()


async def uploads(target: Target, body: bytes) -> None:
    await http("POST", f"{target.url}transcribe", data=body)


async def floods(target: Target, head: bytes, data: bytes) -> None:
    """Send 1 MB/s through a WebSocket after its start."""
    await _send(await raw_socket(target), head, data)  # type: ignore[arg-type]


async def floods_http(target: Target, head: bytes, data: bytes) -> None:
    """Send a request whose body never ends."""
    await _send(await plain_socket(target), head, data)


async def _send(raw: sockets.socket, head: bytes, data: bytes) -> None:
    loop, pieces = asyncio.get_running_loop(), data * max(1, FLOOD_BYTES // 20 // len(data))

    async def at_its_rate() -> None:
        while True:
            begun = loop.time()
            await loop.sock_sendall(raw, pieces)
            await asyncio.sleep(max(0.0, begun + 0.05 - loop.time()))

    try:
        await loop.sock_sendall(raw, head)
        await asyncio.wait_for(at_its_rate(), FLOOD_SECONDS)
    finally:
        raw.close()


async def long_text(target: Target, text: str) -> None:
    async with connected(target.url) as socket:
        await socket.socket.send_str(text)
        await socket.rest()


async def idle(target: Target, is_socket: bool) -> None:
    """Open a connection, send no start, and keep the connection until the server closes it."""
    loop = asyncio.get_running_loop()
    raw = await (raw_socket(target) if is_socket else plain_socket(target))  # type: ignore[arg-type]
    try:
        while await asyncio.wait_for(loop.sock_recv(raw, 4096), FLOOD_SECONDS):
            pass
    finally:
        raw.close()


FORM = (
    b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
)
FIELD = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + b"v" * 9000 + b"\r\n"
# Name, number of clients, pause of a client between two attacks in seconds, the attack.
ATTACKS: tuple[tuple[str, int, float, Attack], ...] = (
    ("hangs up, FLAC", 1, 1.0, functools.partial(hangs_up, form="FLAC")),
    ("hangs up, mp3", 1, 0.5, functools.partial(hangs_up, form="MP3")),
    ("hangs up, Opus", 1, 0.5, functools.partial(hangs_up, form="OGG")),
    ("2,000,000,000 Hz", 1, 1.0, functools.partial(uploads, body=wav(2_000_000_000, 32000))),
    ("1 Hz", 8, 2.0, functools.partial(uploads, body=wav(1, 80))),
    ("4000 Hz, and a byte of audio", 4, 2.0, functools.partial(uploads, body=wav(4000, 2))),
    ("years in 163 bytes", 1, 1.0, functools.partial(uploads, body=w64())),
    ("pings", 2, 0.2, functools.partial(floods, head=START, data=frame(9, b""))),
    ("pings before a start", 1, 0.2, functools.partial(floods, head=b"", data=frame(9, b""))),
    ("empty frames", 2, 0.2, functools.partial(floods, head=START, data=frame(2, b""))),
    ("empty fragments", 1, 0.2, functools.partial(floods, head=START + b"\x02\x80\0\0\0\0", data=b"\x00\x80\0\0\0\0")),
    ("chunks of a byte", 1, 0.2, functools.partial(floods_http, head=CHUNKED, data=b"1\r\nx\r\n")),
    ("large fields", 1, 0.2, functools.partial(floods_http, head=FORM, data=FIELD)),
    ("a form whose body is only line ends", 1, 0.2, functools.partial(floods_http, head=FORM, data=b"\n")),
    ("2 MiB of text", 1, 0.5, functools.partial(long_text, text='{"signal":"' + "x" * (2 << 20))),
    ("a million integers", 1, 0.5, functools.partial(long_text, text="[" + "0," * 1_000_000 + "0]")),
    ("idle connections", 60, 0.1, functools.partial(idle, is_socket=False)),
    ("idle WebSockets", 40, 0.1, functools.partial(idle, is_socket=True)),
    *((fault.__name__, 1, 1.0, fault) for fault in QUICK),  # type: ignore[misc]
    *((fault.__name__, 1, 5.0, fault) for fault in (huge_frame, many_fragments, never_reads)),  # type: ignore[misc]
)


async def attack(target: Target, seconds: float) -> Counter[str]:
    """Run all attacks at once, each again and again; return how often each ran."""
    loop, counts = asyncio.get_running_loop(), Counter[str]()
    end = loop.time() + seconds

    async def repeated(name: str, pause: float, one: Attack) -> None:
        await asyncio.sleep(random.uniform(0, 3))
        while (left := end - loop.time()) > 0:
            with contextlib.suppress(*REFUSED):
                await asyncio.wait_for(one(target), left)
            counts[name] += 1
            await asyncio.sleep(pause)

    await asyncio.gather(*(repeated(name, pause, one) for name, many, pause, one in ATTACKS for _ in range(many)))
    return counts


def main(port: int, seconds: float) -> None:
    for form in SUBTYPES:
        long_recording(form)
    print("ready", flush=True)
    print(json.dumps(asyncio.run(attack(Target(port), seconds))), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
