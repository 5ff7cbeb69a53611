"""A client of WeNet's WebSocket protocol: sends one recording and hands over what comes back. Knows no files."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
import numpy as np

from wenet_fusion_runtime.server.websocket import protocol
from wenet_fusion_runtime.server.websocket.protocol import SessionOptions

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0  # without an answer, after all was sent
CLOSE_SECONDS = 5.0


class Server(NamedTuple):
    """Where to connect."""

    url: str  # ws:// or wss://, or http:// or https://
    token: str | None = None
    tls: ssl.SSLContext | None = None  # None: the system's authorities


class Said(NamedTuple):
    """A result, as a server told it."""

    is_final: bool
    text: str
    words: tuple[tuple[str, bool], ...]  # texts, and whether a space stands before each; empty without timestamps
    committed: int  # so many words can no longer change
    delay: float | None  # seconds since the last audio in it was sent; None without timestamps


@dataclass
class Timing:
    """How long a recording's results took, in seconds."""

    audio: float = 0.0
    delays: list[float] = field(default_factory=list)  # of each result that covers more audio than those before it
    ending: float = 0.0  # from the end of the audio to the last result


class ServerError(OSError):
    """The server cannot be reached, refuses, or fails; the message is its own where it gave one."""


async def recognise(
    server: Server,
    blocks: Iterator[np.ndarray],
    options: SessionOptions,
    is_paced: bool,
    on_result: Callable[[Said], object],
) -> Timing:
    """Send a recording, and return once the server has answered to all of it.

    Args:
        server: see there.
        blocks: samples (n,), float32, at the options' rate; read in a thread.
        options: of the session.
        is_paced: send them no faster than they were spoken.
        on_result: called with each result.
    Raises:
        ServerError: see there.
        ValueError, OSError: what `blocks` raises.
    """
    headers = {} if server.token is None else {"Authorization": f"Bearer {server.token}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as http,
            http.ws_connect(
                server.url,
                ssl=True if server.tls is None else server.tls,
                max_msg_size=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
            ) as socket,
        ):
            return await _Talk(socket, options, on_result).run(blocks, is_paced)
    except aiohttp.WSServerHandshakeError as error:
        why = _HANDSHAKES.get(error.status, "is no server of this protocol")
        raise ServerError(f"{server.url}: {why} (HTTP {error.status})") from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise ServerError(
            f"{server.url}: its certificate is not trusted ({error.certificate_error}); give --authority FILE "
            "with one that vouches for it"
        ) from None
    except aiohttp.ServerDisconnectedError:
        raise ServerError(
            f"{server.url}: hung up without an answer; a server with a certificate wants wss:// or https://"
        ) from None
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        raise ServerError(
            f"{server.url}: cannot be reached ({error or 'no answer'}); is the server running there?"
        ) from None


_HANDSHAKES = {
    401: "needs a token: give --token_file, or set WENET_FUSION_TOKEN",
    403: "does not allow this origin",
    503: "takes no more clients now; try again later",
}


class _Talk:
    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, options: SessionOptions, on_result: Callable[[Said], object]
    ) -> None:
        self._socket, self._options, self._on_result = socket, options, on_result
        self._timing = Timing()
        self._sent: deque[tuple[float, float]] = deque()  # seconds of audio, and when they were sent, oldest first
        self._ended_at: float | None = None
        self._covered = 0.0  # seconds of audio that results have covered

    async def run(self, blocks: Iterator[np.ndarray], is_paced: bool) -> Timing:
        await self._socket.send_str(protocol.start_signal(self._options))
        record = await self._receive()
        if record.get("type") != "server_ready":
            raise ServerError(f"the server answered the start signal with {json.dumps(record)[:200]}")
        sending = asyncio.ensure_future(self._send(blocks, is_paced))
        receiving = asyncio.ensure_future(self._receive_results())
        try:
            await asyncio.wait([sending, receiving], return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not receiving.done():
                # A connection that the server has closed is its own matter: what it said before is still to be read.
                if (error := sending.exception()) is not None and not isinstance(error, ConnectionError):
                    raise error
            await receiving
        finally:
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)
        if self._ended_at is not None:
            self._timing.ending = time.monotonic() - self._ended_at
        return self._timing

    async def _send(self, blocks: Iterator[np.ndarray], is_paced: bool) -> None:
        rate, begin = self._options.sample_rate, time.monotonic()
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            spoken = self._timing.audio + len(block) / rate
            if is_paced:  # a block is there when its last sample has been spoken
                await asyncio.sleep(begin + spoken - time.monotonic())
            await self._socket.send_bytes(protocol.sample_bytes(block, self._options.sample_format))
            self._timing.audio = spoken
            self._sent.append((spoken, time.monotonic()))
        await self._socket.send_str(protocol.end_signal())
        self._ended_at = time.monotonic()

    async def _receive_results(self) -> None:
        while (record := await self._receive()).get("type") != "speech_end":
            if record.get("type") in ("partial_result", "final_result"):
                self._on_result(self._said(record))

    async def _receive(self) -> dict[str, Any]:
        """The next message of the server; raises ServerError if it says no, or nothing more."""
        while True:
            try:
                message = await asyncio.wait_for(self._socket.receive(), SILENCE_SECONDS)
                break
            except asyncio.TimeoutError:
                if self._ended_at is not None or not self._sent:
                    raise ServerError(f"the server said nothing for {SILENCE_SECONDS:g} s") from None
        if message.type is not aiohttp.WSMsgType.TEXT:
            why = f" ({message.extra})" if message.type is aiohttp.WSMsgType.CLOSE and message.extra else ""
            raise ServerError(f"the server closed the connection, code {self._socket.close_code}{why}")
        try:
            record = json.loads(message.data)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ServerError(f"the server sent no JSON object: {message.data[:200]}")
        if record.get("status") != "ok":
            raise ServerError(f"the server refused: {record.get('message', message.data[:200])}")
        return record

    def _said(self, record: dict[str, Any]) -> Said:
        try:
            text = json.loads(record["nbest"])[0]["sentence"]
            words = tuple((word["text"], word["spaced"]) for word in record.get("words", ()))
            delay = self._delay(record.get("end"))
            return Said(record["type"] == "final_result", text, words, record.get("committed", 0), delay)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            shown = json.dumps(record)[:200]
            raise ServerError(f"the server sent a result that cannot be read ({error!r}): {shown}") from None

    def _delay(self, end: float | None) -> float | None:
        """Since the audio up to `end` was sent, once for each end: what repeats an older one says nothing of delays."""
        if end is None or end <= self._covered or not self._sent:
            return None
        self._covered = end
        while len(self._sent) > 1 and self._sent[0][0] < end - 1e-6:
            self._sent.popleft()
        delay = time.monotonic() - self._sent[0][1]
        self._timing.delays.append(delay)
        return delay
