"""One session of a client of WeNet's WebSocket protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any, NamedTuple, Protocol

import aiohttp

from wenet_fusion_runtime.console import visible
from wenet_fusion_runtime.server.guard.deadline import within
from wenet_fusion_runtime.server.session_options import MAX_TEXT, HotWordUpdate, SessionOptions
from wenet_fusion_runtime.server.websocket import protocol
from wenet_fusion_runtime.server.websocket.kept_audio import KeptAudio

REPLY_SECONDS = 60.0  # longest wait for a message before the first block and after the last
CLOSE_SECONDS = 5.0
UPDATE_SECONDS = 0.5  # interval between two checks for new hot words
MAX_REASON = 1000  # characters of a server's error message
_FINAL_CODES = (1000, 1002, 1003, 1007, 1008, 1009)  # close codes after which another session would fail too
_LATER_CODES = (1001, 1012, 1013)  # close codes for "try again", which follow an error message


class ServerResult(NamedTuple):
    """A result from a server."""

    is_final: bool
    text: str
    words: tuple[tuple[str, bool], ...]  # text, and whether a space precedes it; empty without timestamps
    committed: int  # number of final words at the beginning
    # Time from sending the last audio that the result covers until the result arrived; None without timestamps or new
    # audio.
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
    _begun_at: float | None = None  # clock reading at which the recording began

    def begin(self, seconds: float) -> float:
        """Return the clock reading at which the recording began; the first call sets it to `seconds` before now."""
        if self._begun_at is None:
            self._begun_at = time.monotonic() - seconds
        return self._begun_at


class ServerError(OSError):
    """The server cannot be reached, refuses the session, or fails.

    The text of the exception contains the server's message if there is one.
    """


class ConnectionLost(ServerError):
    """The connection is lost, or the server is going away; another session may continue the recording."""


class Updates(Protocol):
    """Changes of the hot words during a recording."""

    def changed(self) -> HotWordUpdate | None:
        """Return the new hot words and context; None if they have not changed since the last call. Runs in a thread."""
        ...

    def refused(self, message: str) -> None:
        """Handle the server's message about hot words that it did not accept."""
        ...


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is {type(value).__name__}")
    return visible(value)


def _shown(record: Mapping[str, Any]) -> str:
    return visible(json.dumps(record), 200)


class ClientSession:
    """One session: sends the audio of a recording and passes the results to a callback.

    Args:
        socket: connected WebSocket.
        options: options of the session.
        audio: the recording; the session begins with its first kept sample.
        timing: delays of the recording, to which the session adds.
        on_result: called with each result.
        updates: changes of the hot words.
        unanswered: changes that the server of a lost session has not answered; they are sent before the audio.
    Attributes:
        options: the options, with the changes that the server has accepted. Refused changes are left out, because a
            session that began with them would be refused as a whole.
        unanswered: changes that the server has neither accepted nor refused, oldest first.

    >>> async def run(socket: aiohttp.ClientWebSocketResponse[bool], audio: KeptAudio) -> None:
    ...     session = ClientSession(socket, SessionOptions(), audio, Timing(), on_result=print)
    ...     await session.run(protocol.start_signal(SessionOptions()), on_ready=lambda: None)
    """

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse[bool],
        options: SessionOptions,
        audio: KeptAudio,
        timing: Timing,
        on_result: Callable[[ServerResult], object],
        updates: Updates | None = None,
        unanswered: Sequence[HotWordUpdate] = (),
    ) -> None:
        self._socket, self.options, self._audio, self._timing = socket, options, audio, timing
        self._on_result, self._updates = on_result, updates
        self.unanswered = deque(unanswered)
        self._start = audio.start_seconds  # start of the session in the recording
        self._sent: deque[tuple[float, float]] = deque()  # position in the recording, and clock reading of sending
        self._ended_at: float | None = None
        self._covered = self._start  # seconds of audio that results cover

    async def run(self, start_signal: str, on_ready: Callable[[], object]) -> None:
        """Send the audio and wait for all results.

        Raises:
            ConnectionLost: the connection was lost, or the server is going away.
            ServerError: the server refuses the session, or fails.
            ValueError, OSError: the recording cannot be read.
        """
        await self._socket.send_str(start_signal)
        record = await self._receive()
        if record.get("type") != "server_ready":
            raise ServerError(f"the server answered the start signal with {_shown(record)}")
        on_ready()
        with contextlib.suppress(ConnectionError):  # the next received message gives the reason
            for update in self.unanswered:
                await self._socket.send_str(protocol.update_signal(update))
        sending = asyncio.ensure_future(self._send())
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
        self._timing.ending = time.monotonic() - self._ended_at

    async def _send(self) -> None:
        rate, spoken = self.options.sample_rate, self._start
        begin = self._timing.begin(spoken)
        while (block := await self._audio.read()) is not None:
            spoken += len(block) / rate
            if self._audio.is_paced:  # a block is complete when its last sample is spoken
                await asyncio.sleep(begin + spoken - time.monotonic())
            await self._socket.send_bytes(protocol.sample_bytes(block, self.options.sample_format))
            self._timing.audio = max(self._timing.audio, spoken)
            self._sent.append((spoken, time.monotonic()))
            if not self.options.timestamps:  # results do not state what they cover, so no audio can be sent again
                self._audio.forget(spoken)
        self._ended_at = time.monotonic()
        await self._socket.send_str(protocol.end_signal())

    async def _send_updates(self) -> None:
        while self._updates is not None and self._ended_at is None:
            await asyncio.sleep(UPDATE_SECONDS)
            looking = asyncio.ensure_future(asyncio.to_thread(self._updates.changed))
            try:
                update = await asyncio.shield(looking)
            except asyncio.CancelledError:  # the connection is lost; `changed` reports a change only once, so keep it
                self._keep(await looking)
                raise
            signal = self._keep(update)  # before sending: if sending fails, the next session sends the change
            if signal and self._ended_at is None:
                await self._socket.send_str(signal)

    def _keep(self, update: HotWordUpdate | None) -> str:
        """Keep a change until the server answers it, and return its signal; an empty text if there is no change."""
        signal = "" if update is None else protocol.update_signal(update)
        if len(signal) > MAX_TEXT and self._updates is not None:  # the server would end the session
            self._updates.refused(
                f"hot words and context have {len(signal)} bytes, and a session takes {MAX_TEXT}; the old ones stay"
            )
            return ""
        if update is not None:
            self.unanswered.append(update)
        return signal

    def _answered(self, record: Mapping[str, Any]) -> None:
        """Process the server's answer, which belongs to the oldest unanswered change."""
        update = self.unanswered.popleft() if self.unanswered else None
        if record["type"] == "update_refused" and self._updates is not None:
            self._updates.refused(visible(str(record.get("message")), MAX_REASON))
        elif update is not None:
            self.options = update.applied(self.options)

    async def _receive_results(self) -> None:
        while (record := await self._receive()).get("type") != "speech_end":
            if record.get("type") in ("partial_result", "final_result"):
                self._on_result(self._result(record))
            elif record.get("type") in ("updated", "update_refused"):
                self._answered(record)

    async def _receive(self) -> dict[str, Any]:
        """Return the next message of the server; raise ServerError if it is an error message, or if none comes."""
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
            if isinstance(self._socket.exception(), asyncio.TimeoutError):  # a ping was not answered
                raise ConnectionLost("the server does not answer")
            code = self._socket.close_code
            kind = ServerError if code in _FINAL_CODES else ConnectionLost
            raise kind(f"the server closed the connection, code {code}{why}")
        try:
            record = json.loads(message.data)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ServerError(f"the server sent something other than a JSON object: {visible(message.data, 200)}")
        if record.get("status") != "ok":
            kind = ConnectionLost if await self._close_code() in _LATER_CODES else ServerError
            raise kind(f"the server refused: {visible(str(record.get('message', message.data)), MAX_REASON)}")
        return record

    async def _close_code(self) -> int | None:
        """Return the server's close code after an error; None if the server sends none soon."""
        with contextlib.suppress(asyncio.TimeoutError):
            await within(self._socket.receive(), CLOSE_SECONDS)
        return self._socket.close_code

    def _result(self, record: dict[str, Any]) -> ServerResult:
        try:
            text = _text(json.loads(record["nbest"])[0]["sentence"])
            words = tuple((_text(word["text"]), bool(word["spaced"])) for word in record.get("words", ()))
            end, is_final = record.get("end"), record["type"] == "final_result"
            delay = self._delay(end)
            if is_final and end is not None:
                self._audio.forget(self._start + end)
            return ServerResult(is_final, text, words, index(record.get("committed", 0)), delay)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ServerError(f"the server sent a result that cannot be read ({error!r}): {_shown(record)}") from None

    def _delay(self, end: float | None) -> float | None:
        """Return the time since the audio up to `end` was sent; None if an earlier result covered it."""
        if end is None or (end := self._start + end) <= self._covered or not self._sent:
            return None
        self._covered = end
        while len(self._sent) > 1 and self._sent[0][0] < end - 1e-6:
            self._sent.popleft()
        delay = time.monotonic() - self._sent[0][1]
        self._timing.delays.append(delay)
        return delay
