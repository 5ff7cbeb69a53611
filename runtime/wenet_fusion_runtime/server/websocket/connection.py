"""Serve one client of WeNet's WebSocket protocol."""

from __future__ import annotations

import asyncio

from wenet_fusion_runtime.server.errors import ClientError, Reason
from wenet_fusion_runtime.server.guard.addresses import Visitor
from wenet_fusion_runtime.server.guard.deadline import within
from wenet_fusion_runtime.server.live_session import LiveSession
from wenet_fusion_runtime.server.service import Service
from wenet_fusion_runtime.server.session_options import HotWordUpdate, SessionOptions
from wenet_fusion_runtime.server.websocket import protocol
from wenet_fusion_runtime.server.websocket.live_connection import LiveConnection
from wenet_fusion_runtime.server.websocket.protocol import EndSignal, SampleReader, WrongUpdate
from wenet_fusion_runtime.server.websocket.result_messages import ResultMessages
from wenet_fusion_runtime.server.websocket.socket import WebSocket


class Connection(LiveConnection):
    """Serves one client of WeNet's WebSocket protocol; see `LiveConnection` for the arguments.

    >>> async def handle(service: Service, socket: WebSocket) -> None:
    ...     await Connection(service, socket, label="127.0.0.1 /ws").run()
    """

    def __init__(self, service: Service, socket: WebSocket, label: str, visitor: Visitor = Visitor()) -> None:
        super().__init__(service, socket, label, visitor)
        self._options = SessionOptions()

    @staticmethod
    def failed(message: str) -> str:
        """Return the protocol's message that reports an error with this text."""
        return protocol.failed(message)

    async def _serve(self) -> None:
        limits = self._service.limits
        try:
            self._options = await self._first(within(self._start(), limits.start_seconds))
        except asyncio.TimeoutError:
            raise ClientError(Reason.START, f"no start signal came within {limits.start_seconds:g} s") from None
        await self._serve_session(self._options)

    # ---- from the client

    async def _start(self) -> SessionOptions:
        message = await self._receive()
        if isinstance(message, bytes):
            raise protocol.protocol_error("Start signal is expected before binary data")
        signal = protocol.parse_signal(message, self._service.rules)
        if not isinstance(signal, SessionOptions):
            name = "end" if isinstance(signal, EndSignal) else "update"
            raise protocol.protocol_error(f"Start signal is expected before {name} signal")
        return signal

    async def _read(self, session: LiveSession) -> None:
        """Push audio into the session until the client disconnects; ignore messages after the end signal."""
        reader, ended = SampleReader(self._options.sample_format), False
        while True:
            # Idle time counts only while the server waits for the client, not while it waits for room.
            self._is_receiving = not ended
            message = await self._receive()
            self._is_receiving = False
            if ended or self._error is not None:
                continue
            if isinstance(message, str):
                begun = self._loop.time()
                signal = self._parsed(message)
                if isinstance(signal, (HotWordUpdate, WrongUpdate)):
                    self._is_receiving = True  # updates do not keep a session without audio open
                    await self._update(session, signal)
                    # Pause for as long as the update took, so that updates use at most half a core.
                    await asyncio.sleep(self._loop.time() - begun)
                    continue
                if isinstance(signal, SessionOptions):
                    raise protocol.protocol_error(
                        "Unexpected start signal: the session has begun; open another connection"
                    )
                reader.end()
                ended = True
                session.end()
                continue
            await self._push(session, reader.read(message), self._options.sample_rate)

    def _parsed(self, message: str) -> SessionOptions | HotWordUpdate | EndSignal | WrongUpdate:
        """Return a signal; a wrong update is returned instead of raised, because the session goes on after it."""
        try:
            return protocol.parse_signal(message, self._service.rules)
        except WrongUpdate as wrong:
            return wrong

    async def _update(self, session: LiveSession, update: HotWordUpdate | WrongUpdate) -> None:
        """Change hot words and context, and reply."""
        if isinstance(update, WrongUpdate):
            await self._send(protocol.update_refused(update.message))
            return
        hot_words, context, terms = update.hot_words, update.context, None
        try:
            if hot_words is not None:
                await session.change(lambda changed: changed.set_hot_words(hot_words))
            if context is not None:
                terms = await session.change(lambda changed: changed.set_context(context))
        except ValueError as error:
            await self._send(protocol.update_refused(ClientError(Reason.OPTION, str(error)).message))
        else:
            await self._send(protocol.updated(terms))

    # ---- to the client

    async def _write(self, session: LiveSession) -> None:
        """Send all results, then return."""
        messages = ResultMessages(self._options, self._service.meta)
        await self._send(protocol.server_ready())
        async for update in session.updates():
            for result in update.finals:
                await self._send(messages.final(result))
                if not self._options.continuous_decoding and self._error is None:
                    await self._send(protocol.speech_end())
                    return
            if update.partial is not None and update.partial.text:
                await self._send(messages.partial(update.partial))
            if update.error is not None:
                raise self._service.session_error(update.error, self._label)
        if self._error is not None:
            raise self._error
        await self._send(protocol.speech_end())
