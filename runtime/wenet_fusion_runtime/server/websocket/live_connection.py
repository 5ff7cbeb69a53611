"""Serve one WebSocket client from connect to close, independently of its protocol."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

import numpy as np
from aiohttp import WSMsgType

from wenet_fusion_runtime.server.errors import (
    NORMAL,
    ClientError,
    Reason,
    internal_error,
    shutting_down,
)
from wenet_fusion_runtime.server.guard.addresses import Visitor
from wenet_fusion_runtime.server.guard.deadline import within
from wenet_fusion_runtime.server.live_session import LiveSession
from wenet_fusion_runtime.server.service import FINISH_SECONDS, LOG, Service
from wenet_fusion_runtime.server.session_options import MAX_TEXT, SessionOptions
from wenet_fusion_runtime.server.websocket.socket import WebSocket

TICK_SECONDS = 0.25
PING_SECONDS = 20.0  # interval of pings, so that proxies do not close a connection without traffic
LEAST_AUDIO = 0.01  # share of real time that a client must send; without it, a few bytes could keep a session open


class Disconnected(Exception):
    """The client closed the connection."""


class LiveConnection(ABC):
    """Serves one WebSocket client. Errors and delays of a client affect only its own session.

    It implements `service.Client`, through which the service drains or ends it.

    A subclass implements a protocol: `_serve` finds the options of the session and calls `_serve_session`, which runs
    `_read`, `_write` and the checks of the time limits at the same time.

    Args:
        service: decodes the audio.
        socket: accepted WebSocket.
        label: name of the client in the log.
        visitor: the client's address and connection, for the limits.

    >>> async def handle(protocol: type[LiveConnection], service: Service, socket: WebSocket) -> None:
    ...     await protocol(service, socket, label="127.0.0.1 /ws").run()
    """

    def __init__(self, service: Service, socket: WebSocket, label: str, visitor: Visitor = Visitor()) -> None:
        self._service, self._socket, self._label, self._visitor = service, socket, label, visitor
        self._loop = asyncio.get_running_loop()
        self._session: LiveSession | None = None
        self._audio_seconds = 0.0
        self._error: ClientError | None = None  # to be sent after the results so far
        self._finish_by: float | None = None  # loop time by which these results must be sent
        self._is_receiving = False  # idle time counts now
        self._sending = asyncio.Lock()  # the tasks of a session send one message at a time
        self._sending_since: float | None = None  # loop time since which a message waits for the client to read it
        self._cut: asyncio.Future[ClientError] = self._loop.create_future()  # its result ends the connection at once

    @staticmethod
    @abstractmethod
    def failed(message: str) -> str:
        """Return the protocol's message that reports an error with this text."""

    @abstractmethod
    async def _serve(self) -> None:
        """Find the options of the session, and call `_serve_session`."""

    @abstractmethod
    async def _read(self, session: LiveSession) -> None:
        """Push audio into the session until the client disconnects."""

    @abstractmethod
    async def _write(self, session: LiveSession) -> None:
        """Send all results, then return."""

    def _failure(self, error: ClientError) -> str:
        return self.failed(error.message)

    async def run(self) -> None:
        """Serve the client until it has all results, disconnects, or causes an error."""
        try:
            self._service.check_draining()
            await self._serve()
        except ClientError as error:
            self._drop()
            self._service.report(error, self._label)
            await self._close(error)
        except (Disconnected, ConnectionError):
            self._disconnected()
        except asyncio.CancelledError:  # aiohttp cancels the handler when the connection is lost
            self._disconnected()
            raise
        except Exception:
            LOG.exception("%s: failed", self._label)
            self._service.metrics.count_error(Reason.INTERNAL)
            await self._close(internal_error())
        else:
            LOG.info("%s: finished, %.1f s of audio", self._label, self._audio_seconds)
            await self._socket.close(code=NORMAL)
        finally:
            self._drop()

    def drain(self) -> None:
        """Close the connection if its session has not begun."""
        if self._session is None:
            self._cut_off(shutting_down())

    def end_early(self, error: ClientError) -> None:
        """End the session: send the results of the audio so far, then the error."""
        if self._session is None:
            self._cut_off(error)
        elif self._error is None:
            self._error = error
            self._finish_by = self._loop.time() + FINISH_SECONDS
            self._session.end()

    # ---- for protocols

    async def _serve_session(self, options: SessionOptions) -> None:
        with self._service.sessions.open(self._visitor):
            self._session = await self._service.open(options)
            # `_first` takes the first of these that has ended. `_write` stands first: a client that disconnects in the
            # same turn of the event loop has all results.
            await self._first(self._write(self._session), self._read(self._session), self._watch())

    async def _first(self, *coroutines: Coroutine[Any, Any, Any]) -> Any:
        """Return or raise the outcome of the first coroutine that ends, or raise the error of `_cut`; end the rest."""
        tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
        try:
            await asyncio.wait([*tasks, self._cut], return_when=asyncio.FIRST_COMPLETED)
            if self._cut.done():
                raise self._cut.result()
            ended = next(task for task in tasks if task.done())
            return ended.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self) -> str | bytes:
        message = await self._socket.receive()
        if message.type is WSMsgType.TEXT:
            self._check_text(message.data)
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            return message.data
        raise self._socket.read_error or Disconnected

    def _check_text(self, text: str) -> None:
        """Raise ClientError if a text message is too long to parse."""
        if len(text) > MAX_TEXT:
            raise ClientError(
                Reason.MESSAGE_SIZE,
                f"a text message has more than {MAX_TEXT} bytes; send audio as binary, and fewer hot words",
            )

    async def _push(self, session: LiveSession, samples: np.ndarray, rate: int) -> None:
        """Push audio up to the limit; end the session early if there is more."""
        limit = self._service.limits.audio_seconds
        allowed = max(0, round((limit - self._audio_seconds) * rate))
        self._audio_seconds += min(len(samples), allowed) / rate
        await session.push(samples[:allowed], rate)
        if len(samples) > allowed:
            self.end_early(
                ClientError(Reason.AUDIO_SECONDS, f"a session may have {limit:g} s of audio; open another connection")
            )

    async def _send(self, text: str) -> None:
        async with self._sending:
            self._sending_since = self._loop.time()
            await self._socket.send_str(text)
            self._sending_since = None

    # ----

    def _cut_off(self, error: ClientError) -> None:
        if not self._cut.done():
            self._cut.set_result(error)

    async def _watch(self) -> None:
        """Check the time limits: raise ClientError, or end the session early so that the results so far are sent."""
        limits, begun = self._service.limits, self._loop.time()
        pinged = counted_at = begun
        counted, least = 0.0, LEAST_AUDIO * limits.idle_seconds  # seconds of audio
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._loop.time()
            if self._sending_since is not None and now - self._sending_since > limits.send_seconds:
                raise ClientError(Reason.SLOW_READER, f"the client read nothing for {limits.send_seconds:g} s")
            if self._error is not None and self._finish_by is not None and now > self._finish_by:
                raise self._error
            if not self._is_receiving or self._audio_seconds - counted >= least:
                counted, counted_at = self._audio_seconds, now
            elif now - counted_at > limits.idle_seconds:
                self.end_early(
                    ClientError(
                        Reason.IDLE,
                        f"less than {least:g} s of audio came in {limits.idle_seconds:g} s; send audio or an end "
                        "signal",
                    )
                )
            longest = limits.audio_seconds + limits.idle_seconds
            if now - begun > longest:  # the client sends slower than real time
                self.end_early(
                    ClientError(
                        Reason.AUDIO_SECONDS,
                        f"a session may last {longest:g} s; open another connection",
                    )
                )
            if now - pinged > PING_SECONDS and self._sending_since is None:
                pinged = now
                try:
                    await within(self._socket.ping(), limits.send_seconds)
                except asyncio.TimeoutError:
                    raise ClientError(Reason.SLOW_READER, "the client did not read a ping") from None

    async def _close(self, error: ClientError) -> None:
        """Send the error and close; abort the connection if the client does not read."""
        if error.reason is Reason.SLOW_READER or self._socket.closed:
            self._socket.abort()
            return
        sending = self._socket.send_str(self._failure(error))
        try:
            await within(sending, self._service.limits.send_seconds)
            await self._socket.close(code=error.close_code, message=error.close_reason)
        except (asyncio.TimeoutError, ConnectionError):
            self._socket.abort()

    def _disconnected(self) -> None:
        """Count and log the end of the connection."""
        if self._socket.read_error is not None:  # the client closed because of this error
            self._service.report(self._socket.read_error, self._label)
            return
        if self._session is not None:
            self._service.metrics.count_disconnected()
        LOG.info("%s: disconnected after %.1f s of audio", self._label, self._audio_seconds)

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
