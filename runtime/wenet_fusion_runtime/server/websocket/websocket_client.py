"""A client of WeNet's WebSocket protocol: sends one recording and returns its results."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Any, NamedTuple, Protocol

import aiohttp
import numpy as np

from wenet_fusion_runtime.console import visible
from wenet_fusion_runtime.server.guard.deadline import within
from wenet_fusion_runtime.server.session_options import HotWordUpdate, SessionOptions
from wenet_fusion_runtime.server.websocket import protocol

CONNECT_SECONDS = 10.0
REPLY_SECONDS = 60.0  # longest wait for a message before the first block and after the last
CLOSE_SECONDS = 5.0
UPDATE_SECONDS = 0.5  # between two looks for new hot words
MAX_REASON = 1000  # characters of a server's error message


class ServerAddress(NamedTuple):
    """Address of a server, token and certificate."""

    url: str  # ws://, wss://, http:// or https://
    token: str | None = None
    tls: ssl.SSLContext | None = None  # None: trust the system's certificate authorities


class ServerResult(NamedTuple):
    """A result that a server sent."""

    is_final: bool
    text: str
    words: tuple[tuple[str, bool], ...]  # each with whether a space precedes it; empty without timestamps
    committed: int  # number of final words: the length of the stable prefix
    # Time from sending the last audio covered by this result to its arrival; None without timestamps or new audio.
    delay: float | None


@dataclass
class Timing:
    """Delays of a recording's results, in seconds.

    >>> Timing(audio=3.6, delays=[0.005, 0.008], ending=0.009).audio
    3.6
    """

    audio: float = 0.0  # length of the recording
    delays: list[float] = field(default_factory=list)  # one per result that covers new audio
    ending: float = 0.0  # time from the end signal to the last result


class ServerError(OSError):
    """The server cannot be reached, refuses the session, or fails.

    The text holds the server's message, if it sent one.
    """


class Updates(Protocol):
    """Changes of the hot words during a recording."""

    def changed(self) -> HotWordUpdate | None:
        """Return the new hot words and context, None if they are those of the last call. Called in a thread."""
        ...

    def refused(self, message: str) -> None:
        """Take the server's message about hot words that it did not accept."""
        ...


async def recognise(
    server: ServerAddress,
    blocks: Iterator[np.ndarray],
    options: SessionOptions,
    is_paced: bool,
    on_result: Callable[[ServerResult], object],
    endpoint: Mapping[str, float | None] | None = None,
    stop: Callable[[], object] = lambda: None,
    updates: Updates | None = None,
) -> Timing:
    """Send a recording and wait for all its results.

    Args:
        server: where to connect.
        blocks: samples (n,), float32, at the options' rate. A thread reads them; it has ended when this function
            returns.
        options: of the session.
        is_paced: send no faster than real time.
        on_result: called with each result.
        endpoint: endpoint rules by name that differ from the server's.
        stop: called if the session ends before the audio. It must make `blocks` stop soon, even if it is waiting for
            audio.
        updates: changes of the hot words; None for none.
    Raises:
        ServerError: the server cannot be reached, refuses the session, or fails.
        ValueError, OSError: from `blocks`.
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
            session = _ClientSession(socket, options, on_result, stop, updates)
            return await session.run(protocol.start_signal(options, endpoint), blocks, is_paced)
    except aiohttp.WSServerHandshakeError as error:
        why = _HANDSHAKES.get(error.status, "is not a server of this protocol")
        raise ServerError(f"{server.url}: {why} (HTTP {error.status})") from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise ServerError(
            f"{server.url}: its certificate is not trusted ({error.certificate_error}); give --authority FILE "
            "with the certificate that signed it"
        ) from None
    except aiohttp.ServerDisconnectedError:
        raise ServerError(
            f"{server.url}: closed the connection without a reply; a server with a certificate needs wss:// or https://"
        ) from None
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        raise ServerError(
            f"{server.url}: cannot be reached ({error or 'no reply'}); is the server running there?"
        ) from None


_HANDSHAKES = {
    401: "needs a token: give --token_file, or set WENET_FUSION_TOKEN",
    403: "does not allow this origin",
    503: "accepts no more clients now; try again later",
}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is {type(value).__name__}")
    return visible(value)


def _shown(record: Mapping[str, Any]) -> str:
    return visible(json.dumps(record), 200)


class _ClientSession:
    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse[bool],
        options: SessionOptions,
        on_result: Callable[[ServerResult], object],
        stop: Callable[[], object] = lambda: None,
        updates: Updates | None = None,
    ) -> None:
        self._updates = updates
        self._socket, self._options, self._on_result, self._stop = socket, options, on_result, stop
        self._reading: asyncio.Future[np.ndarray | None] | None = None  # the thread that reads the next block
        self._timing = Timing()
        self._sent: deque[tuple[float, float]] = deque()  # seconds of audio sent, with the time of sending
        self._ended_at: float | None = None
        self._covered = 0.0  # seconds of audio that results cover

    async def run(self, start_signal: str, blocks: Iterator[np.ndarray], is_paced: bool) -> Timing:
        await self._socket.send_str(start_signal)
        record = await self._receive()
        if record.get("type") != "server_ready":
            raise ServerError(f"the server answered the start signal with {_shown(record)}")
        sending = asyncio.ensure_future(self._send(blocks, is_paced))
        receiving = asyncio.ensure_future(self._receive_results())
        updating = asyncio.ensure_future(self._send_updates())
        try:
            await asyncio.wait([sending, receiving], return_when=asyncio.FIRST_COMPLETED)
            error = sending.exception() if sending.done() and not receiving.done() else None
            # If the server closed the connection, read its last messages first: they give the reason.
            if error is not None and not isinstance(error, ConnectionError):
                raise error
            await receiving
            if self._ended_at is None:
                raise ServerError(
                    f"the server ended the session after {self._timing.audio:.1f} s of audio, before the end signal; "
                    "the text is not complete"
                )
        finally:
            for task in (sending, receiving, updating):
                task.cancel()
            await asyncio.gather(sending, receiving, updating, return_exceptions=True)
            await self._end_reading()
        if self._ended_at is not None:
            self._timing.ending = time.monotonic() - self._ended_at
        return self._timing

    async def _send(self, blocks: Iterator[np.ndarray], is_paced: bool) -> None:
        rate, begin = self._options.sample_rate, time.monotonic()
        while (block := await self._read(blocks)) is not None:
            spoken = self._timing.audio + len(block) / rate
            if is_paced:  # a block is complete when its last sample is spoken
                await asyncio.sleep(begin + spoken - time.monotonic())
            await self._socket.send_bytes(protocol.sample_bytes(block, self._options.sample_format))
            self._timing.audio = spoken
            self._sent.append((spoken, time.monotonic()))
        self._ended_at = time.monotonic()
        await self._socket.send_str(protocol.end_signal())

    async def _send_updates(self) -> None:
        while self._updates is not None and self._ended_at is None:
            await asyncio.sleep(UPDATE_SECONDS)
            update = await asyncio.to_thread(self._updates.changed)
            if update is not None and self._ended_at is None:
                await self._socket.send_str(protocol.update_signal(update))

    async def _read(self, blocks: Iterator[np.ndarray]) -> np.ndarray | None:
        self._reading = asyncio.ensure_future(asyncio.to_thread(next, blocks, None))
        return await asyncio.shield(self._reading)

    async def _end_reading(self) -> None:
        """Wait for the thread that reads.

        Cancelling the task does not stop the thread. Afterwards the caller may close the source.
        """
        if self._reading is not None and not self._reading.done():
            self._stop()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _receive_results(self) -> None:
        while (record := await self._receive()).get("type") != "speech_end":
            if record.get("type") in ("partial_result", "final_result"):
                self._on_result(self._result(record))
            elif record.get("type") == "update_refused" and self._updates is not None:
                self._updates.refused(visible(str(record.get("message")), MAX_REASON))

    async def _receive(self) -> dict[str, Any]:
        """Return the next message of the server; raise ServerError for an error message, or if none comes."""
        while True:
            try:
                message = await within(self._socket.receive(), REPLY_SECONDS)
                break
            except asyncio.TimeoutError:
                if self._ended_at is not None or not self._sent:
                    raise ServerError(f"the server sent nothing for {REPLY_SECONDS:g} s") from None
        if message.type is not aiohttp.WSMsgType.TEXT:
            why = (
                f" ({visible(str(message.extra), 200)})"
                if message.type is aiohttp.WSMsgType.CLOSE and message.extra
                else ""
            )
            raise ServerError(f"the server closed the connection, code {self._socket.close_code}{why}")
        try:
            record = json.loads(message.data)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ServerError(f"the server sent something other than a JSON object: {visible(message.data, 200)}")
        if record.get("status") != "ok":
            raise ServerError(f"the server refused: {visible(str(record.get('message', message.data)), MAX_REASON)}")
        return record

    def _result(self, record: dict[str, Any]) -> ServerResult:
        try:
            text = _text(json.loads(record["nbest"])[0]["sentence"])
            words = tuple((_text(word["text"]), bool(word["spaced"])) for word in record.get("words", ()))
            delay = self._delay(record.get("end"))
            return ServerResult(record["type"] == "final_result", text, words, index(record.get("committed", 0)), delay)
        except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
            raise ServerError(f"the server sent a result that cannot be read ({error!r}): {_shown(record)}") from None

    def _delay(self, end: float | None) -> float | None:
        """Return the time since the audio up to `end` was sent; None if an earlier result covered it."""
        if end is None or end <= self._covered or not self._sent:
            return None
        self._covered = end
        while len(self._sent) > 1 and self._sent[0][0] < end - 1e-6:
            self._sent.popleft()
        delay = time.monotonic() - self._sent[0][1]
        self._timing.delays.append(delay)
        return delay
