"""One WebSocket client, from its connection to its end. Knows neither requests nor how messages are written."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiohttp import WSMsgType

from wenet_fusion_runtime.server.errors import INTERNAL, NORMAL, TRY_LATER, Reason, Refusal
from wenet_fusion_runtime.server.service import FINISH_SECONDS, LOG, Service, shutting_down
from wenet_fusion_runtime.server.websocket import protocol
from wenet_fusion_runtime.server.websocket.live_session import LiveSession
from wenet_fusion_runtime.server.websocket.protocol import EndSignal, SampleReader, SessionOptions
from wenet_fusion_runtime.server.websocket.socket import WebSocket

TICK_SECONDS = 0.25
PING_SECONDS = 20.0  # keeps proxies from closing a connection on which nothing is said
LEAST_AUDIO = 0.01  # of the time in which a client should send: a byte now and then would hold a session for hours


class Gone(Exception):
    """The client went away."""


class Connection:
    """Serves one client; a `Client` of the service. What it does wrong, or too slowly, ends its own session only.

    Args:
        service: see there.
        socket: accepted.
        who: what the log calls the client.
    """

    def __init__(self, service: Service, socket: WebSocket, who: str) -> None:
        self._service, self._socket, self._who = service, socket, who
        self._loop = asyncio.get_running_loop()
        self._options = SessionOptions()
        self._session: LiveSession | None = None
        self._audio_seconds = 0.0
        self._refusal: Refusal | None = None  # what follows the results so far
        self._finish_by: float | None = None  # when they must have been sent
        self._listening = False  # waiting for a message of the client
        self._sending_since: float | None = None  # waiting for the client to take a message
        self._cut: asyncio.Future[Refusal] = self._loop.create_future()  # ends all at once

    async def run(self) -> None:
        """Serve the client until it has got everything, goes away, or is refused."""
        try:
            await self._serve()
        except Refusal as refusal:
            self._drop()
            self._service.refused(refusal, self._who)
            await self._close(refusal)
        except (Gone, ConnectionError):
            self._vanished()
        except asyncio.CancelledError:  # so aiohttp tells that the connection was lost
            self._vanished()
            raise
        except Exception:  # our own mistake must not stay unsaid
            LOG.exception("%s: failed", self._who)
            self._service.metrics.refused(Reason.INTERNAL)
            await self._close(Refusal(Reason.INTERNAL, "the server failed; its log says why", INTERNAL))
        else:
            LOG.info("%s: finished, %.1f s of audio", self._who, self._audio_seconds)
            await self._socket.close(code=NORMAL)
        finally:
            self._drop()

    def drain(self) -> None:
        if self._session is None:
            self._cut_off(shutting_down())

    def end_early(self, refusal: Refusal) -> None:
        if self._session is None:
            self._cut_off(refusal)
        elif self._refusal is None:
            self._refusal = refusal
            self._finish_by = self._loop.time() + FINISH_SECONDS
            self._session.end()

    # ----

    async def _serve(self) -> None:
        limits = self._service.limits
        self._service.check_draining()
        if self._service.clients > limits.connections:
            raise Refusal(
                Reason.FULL,
                f"{self._service.clients - 1} connections are open, and no more may be; try again later",
                TRY_LATER,
            )
        try:
            self._options = await self._first(asyncio.wait_for(self._start(), limits.start_seconds))
        except asyncio.TimeoutError:
            raise Refusal(Reason.START, f"no start signal came within {limits.start_seconds:g} s") from None
        self._session = await self._service.open(self._options)
        # The writer first: a client that has got everything and hung up at once has not vanished.
        await self._first(self._write(self._session), self._read(self._session), self._watch())

    async def _first(self, *coroutines: Coroutine[Any, Any, Any]) -> Any:
        """What the first of them returns or raises, once all have ended; raises Refusal if the client is cut off."""
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

    def _cut_off(self, refusal: Refusal) -> None:
        if not self._cut.done():
            self._cut.set_result(refusal)

    # ---- from the client

    async def _start(self) -> SessionOptions:
        message = await self._receive()
        if isinstance(message, bytes):
            raise Refusal(Reason.PROTOCOL, "Start signal is expected before binary data", NORMAL)
        signal = protocol.parse_signal(message, self._service.rules)
        if isinstance(signal, EndSignal):
            raise Refusal(Reason.PROTOCOL, "Start signal is expected before end signal", NORMAL)
        return signal

    async def _read(self, session: LiveSession) -> None:
        """Feeds the session until the client is gone; what comes after its end is thrown away."""
        reader, rate = SampleReader(self._options.sample_format), self._options.sample_rate
        limit, ended = self._service.limits.audio_seconds, False
        while True:
            # Only whoever should send is waited for, and only while nothing else keeps the server from reading.
            self._listening = not ended
            message = await self._receive()
            self._listening = False
            if ended or self._refusal is not None:
                continue
            if isinstance(message, str):
                self._check_end(message)
                ended = True
                session.end()
                continue
            samples = reader.read(message)
            allowed = max(0, round((limit - self._audio_seconds) * rate))
            self._audio_seconds += min(len(samples), allowed) / rate
            await session.push(samples[:allowed], rate)
            if len(samples) > allowed:
                self.end_early(
                    Refusal(Reason.AUDIO_SECONDS, f"a session may have {limit:g} s of audio; open another one")
                )

    def _check_end(self, message: str) -> None:
        if not isinstance(protocol.parse_signal(message, self._service.rules), EndSignal):
            raise Refusal(
                Reason.PROTOCOL, "Unexpected start signal: the session has begun; open another connection", NORMAL
            )

    async def _receive(self) -> str | bytes:
        message = await self._socket.receive()
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            return message.data
        raise self._socket.fault or Gone

    # ---- to the client

    async def _write(self, session: LiveSession) -> None:
        """Sends the results; returns when the client has got everything."""
        await self._send(protocol.server_ready())
        async for update in session.updates():
            for result in update.finals:
                await self._send(protocol.final_result(result, self._options, self._service.meta))
                if not self._options.continuous_decoding and self._refusal is None:
                    await self._send(protocol.speech_end())
                    return
            if update.partial is not None and update.partial.text:
                await self._send(protocol.partial_result(update.partial, self._options, self._service.meta))
            if update.error is not None:
                raise self._service.failure(update.error, self._who)
        if self._refusal is not None:
            raise self._refusal
        await self._send(protocol.speech_end())

    async def _send(self, text: str) -> None:
        self._sending_since = self._loop.time()
        await self._socket.send_str(text)
        self._sending_since = None

    async def _watch(self) -> None:
        """Raises Refusal when something takes too long, or sees to it that the results so far are sent first."""
        limits, begun = self._service.limits, self._loop.time()
        pinged = heard_at = begun
        heard, least = 0.0, LEAST_AUDIO * limits.idle_seconds
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._loop.time()
            if self._sending_since is not None and now - self._sending_since > limits.send_seconds:
                raise Refusal(Reason.SLOW_READER, f"nothing of what was sent was taken for {limits.send_seconds:g} s")
            if self._finish_by is not None and now > self._finish_by:
                raise self._refusal
            if not self._listening or self._audio_seconds - heard >= least:
                heard, heard_at = self._audio_seconds, now
            elif now - heard_at > limits.idle_seconds:
                self.end_early(
                    Refusal(
                        Reason.IDLE,
                        f"less than {least:g} s of audio came in {limits.idle_seconds:g} s; send audio or an end "
                        "signal",
                    )
                )
            if now - begun > limits.audio_seconds + limits.idle_seconds:  # less audio than time
                self.end_early(
                    Refusal(Reason.AUDIO_SECONDS, f"a session may last {limits.audio_seconds:g} s; open another one")
                )
            if now - pinged > PING_SECONDS and self._sending_since is None:
                pinged = now
                try:
                    await asyncio.wait_for(self._socket.ping(), limits.send_seconds)
                except asyncio.TimeoutError:
                    raise Refusal(Reason.SLOW_READER, "a ping was not taken") from None

    async def _close(self, refusal: Refusal) -> None:
        """Tells the client why, if it takes that."""
        if refusal.reason is Reason.SLOW_READER or self._socket.closed:
            self._socket.abort()
            return
        sending = self._socket.send_str(protocol.failed(refusal.message))
        try:
            await asyncio.wait_for(sending, self._service.limits.send_seconds)
            await self._socket.close(code=refusal.close_code, message=refusal.close_reason)
        except (asyncio.TimeoutError, ConnectionError):
            self._socket.abort()

    def _vanished(self) -> None:
        if self._socket.fault is not None:  # it has taken the hint
            self._service.refused(self._socket.fault, self._who)
            return
        if self._session is not None:
            self._service.metrics.vanished()
        LOG.info("%s: went away after %.1f s of audio", self._who, self._audio_seconds)

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
