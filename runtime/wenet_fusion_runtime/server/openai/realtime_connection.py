"""Serve one client of OpenAI's realtime protocol: a transcription session."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from wenet_fusion_runtime.audio.sample_formats import PCM, from_bytes
from wenet_fusion_runtime.server.errors import ClientError, Reason
from wenet_fusion_runtime.server.guard.addresses import Visitor
from wenet_fusion_runtime.server.guard.budget import Budget, Pace
from wenet_fusion_runtime.server.live_session import LiveSession
from wenet_fusion_runtime.server.openai import realtime_events
from wenet_fusion_runtime.server.openai.prompt_words import PromptWords
from wenet_fusion_runtime.server.openai.realtime_events import BadEvent, ClientEvent, event
from wenet_fusion_runtime.server.openai.realtime_items import ItemEvents
from wenet_fusion_runtime.server.openai.realtime_options import AUDIO_TYPES, NO_LANGUAGE_MODEL, RealtimeOptions
from wenet_fusion_runtime.server.service import Service
from wenet_fusion_runtime.server.session_options import INT16, option_error
from wenet_fusion_runtime.server.websocket.live_connection import Disconnected, LiveConnection
from wenet_fusion_runtime.server.websocket.protocol import SampleReader
from wenet_fusion_runtime.server.websocket.socket import WebSocket

PROTOCOL = "realtime"  # subprotocol
KEY_PROTOCOL = "openai-insecure-api-key."  # begins a subprotocol whose rest is the token: pages cannot set headers
CONTROLS_PER_SECOND, CONTROLS_AT_ONCE = 10.0, 50.0  # events without audio; further ones wait
MISTAKES_PER_SECOND, MISTAKES_AT_ONCE = 1.0, 10.0  # unusable events; the session ends above this rate


class Ending(Enum):
    """Reasons to end the audio of a session while the connection goes on."""

    COMMIT = 1  # the client commits the audio: it becomes an item
    UPDATE = 2  # the format or the turn detection changes: the audio becomes an item if it has text
    CLEAR = 3  # the client clears the audio: it is dropped


@dataclass
class _Take:
    """Audio that one session of the engine decodes."""

    session: LiveSession
    options: RealtimeOptions
    start_seconds: float  # audio of the connection before this take
    ending: Ending | None = None
    is_sent: asyncio.Event = field(default_factory=asyncio.Event)  # all its results are sent


class RealtimeConnection(LiveConnection):
    """Serves one client: receives audio, sends turns and transcripts; see `LiveConnection` for the other arguments.

    A session of the engine is open from the beginning. A commit ends it and opens the next one in its place, so a
    connection can go on when the server is full. A connection never has more than two sessions.

    Args:
        prompt_words: turns prompts into hot words.

    >>> async def handle(service: Service, socket: WebSocket, words: PromptWords) -> None:
    ...     await RealtimeConnection(service, socket, "127.0.0.1 /v1/realtime", Visitor(), words).run()
    """

    def __init__(
        self, service: Service, socket: WebSocket, label: str, visitor: Visitor, prompt_words: PromptWords
    ) -> None:
        super().__init__(service, socket, label, visitor)
        self._id = realtime_events.new_id("sess")
        self._prompt_words = prompt_words
        self._options = RealtimeOptions()
        self._reader: SampleReader | None = None  # of 16-bit samples
        self._takes: asyncio.Queue[_Take] = asyncio.Queue()  # takes with results to send
        self._opened: list[LiveSession] = []  # open sessions of the engine, at most two
        self._take: _Take | None = None  # the take that gets the client's audio
        self._pace = Pace(
            Budget(CONTROLS_PER_SECOND, CONTROLS_AT_ONCE),
            f"events other than audio exceeded {CONTROLS_PER_SECOND:g} per second",
        )
        self._mistakes = Budget(MISTAKES_PER_SECOND, MISTAKES_AT_ONCE)

    @staticmethod
    def failed(message: str) -> str:
        """Return the event of an error."""
        return realtime_events.error_event(ClientError(Reason.PROTOCOL, message))

    def _failure(self, error: ClientError) -> str:
        return realtime_events.error_event(error)

    async def _serve(self) -> None:
        await self._serve_session(self._options.session_options(self._service.rules))

    # ---- from the client

    def _check_text(self, text: str) -> None:
        realtime_events.check_length(text)

    async def _read(self, session: LiveSession) -> None:
        """Process the client's events until it closes the connection."""
        while True:
            self._is_receiving = True
            try:
                message = await self._receive()
            except Disconnected:
                return  # the protocol has no message that ends a session
            found = None
            try:
                if isinstance(message, bytes):
                    raise BadEvent(ClientError(Reason.PROTOCOL, "the message is binary; send events as JSON text"))
                found = self._parsed(message)
                if found.kind != realtime_events.APPEND or not found.audio:
                    await self._pace.wait(1)
                if self._error is None:
                    await self._do(found)
            except BadEvent as bad:
                await self._refuse(bad.error, bad.event_id if found is None else found.event_id)

    def _parsed(self, message: str) -> ClientEvent:
        found: list[ClientEvent | BadEvent] = []

        def parse() -> None:
            try:
                found.append(realtime_events.parse_event(message))
            except BadEvent as bad:
                found.append(bad)

        self._socket.parse(parse)
        if isinstance(found[0], BadEvent):
            raise found[0]
        return found[0]

    async def _refuse(self, error: ClientError, event_id: str | None) -> None:
        if not self._mistakes.try_spend(1, self._loop.time()):
            raise ClientError(Reason.FLOOD, f"too many events cannot be used; the last one: {error.message}")
        self._service.report(error, self._label)
        await self._send(realtime_events.error_event(error, event_id))

    async def _do(self, found: ClientEvent) -> None:
        take = self._take
        assert take is not None
        if found.kind == realtime_events.APPEND:
            samples = self._samples(found.audio)
            self._is_receiving = False
            await self._push(take.session, samples, take.options.sample_rate)
        elif found.kind == realtime_events.UPDATE:
            await self._update(take, found)
        elif found.kind == realtime_events.COMMIT:
            if self._audio_seconds == take.start_seconds:
                raise BadEvent(ClientError(Reason.OPTION, "the input audio buffer is empty; append audio, then commit"))
            await self._go_on(take, Ending.COMMIT, take.options)
        else:
            await self._go_on(take, Ending.CLEAR, take.options)
            await self._send(event("input_audio_buffer.cleared"))

    def _samples(self, audio: bytes) -> np.ndarray:
        tag, width = AUDIO_TYPES[self._options.audio_type]
        if tag != PCM:
            return from_bytes(audio, tag, width, channels=1)[:, 0]
        if self._reader is None:
            self._reader = SampleReader(INT16)
        return self._reader.read(audio)

    async def _update(self, take: _Take, found: ClientEvent) -> None:
        try:
            options = await self._with_hints(self._options.updated(found.session))
            if options.eagerness is not None and self._service.recognizer.options.language_model is None:
                raise option_error(NO_LANGUAGE_MODEL)
            await self._apply(take, options)
        except ClientError as error:
            if error.reason is not Reason.OPTION:
                raise
            raise BadEvent(error) from None
        except ValueError as error:  # raised by changed hot words
            raise BadEvent(ClientError(Reason.OPTION, str(error))) from None
        await self._send(self._session_event("session.updated", options))

    async def _apply(self, take: _Take, options: RealtimeOptions) -> None:
        """Change hot words and context in the session; for any other change, begin another session."""
        wanted = options.session_options(self._service.rules)
        present = self._options.session_options(self._service.rules)
        is_same_audio = options.audio_type == self._options.audio_type
        if is_same_audio and replace(wanted, hot_words=present.hot_words, context=present.context) == present:
            await take.session.change(lambda changed: changed.set_hot_words(wanted.hot_words))
            await take.session.change(lambda changed: changed.set_context(wanted.context))
            take.options = options
        else:
            await self._go_on(take, Ending.UPDATE, options)
        self._reader = self._reader if is_same_audio else None
        self._options = options

    async def _with_hints(self, options: RealtimeOptions) -> RealtimeOptions:
        """Find hot words in a thread, then pause for the same time, so that one client uses at most half a core."""
        if (options.prompt, options.keywords) == (self._options.prompt, self._options.keywords):
            return options
        begun = self._loop.time()
        hints = await asyncio.to_thread(self._prompt_words.find, options.prompt, options.keywords)
        await asyncio.sleep(self._loop.time() - begun)
        return replace(options, hints=hints)

    async def _go_on(self, take: _Take, ending: Ending, options: RealtimeOptions) -> None:
        """End the current audio, begin another session, and wait until all results of the ended audio are sent."""
        session = await self._service.open(options.session_options(self._service.rules), after=take.session)
        self._opened.append(session)
        if self._error is not None:  # a limit has ended the session meanwhile
            return
        take.ending = ending
        take.session.end()
        self._begin(session, options)
        self._is_receiving = self._audio_seconds == take.start_seconds  # without audio, the idle time goes on
        await take.is_sent.wait()
        self._opened.remove(take.session)

    def _begin(self, session: LiveSession, options: RealtimeOptions) -> None:
        self._session = session
        self._take = _Take(session, options, self._audio_seconds)
        self._takes.put_nowait(self._take)

    # ---- to the client

    async def _write(self, session: LiveSession) -> None:
        """Send the events of the results; if an error has ended the last session, raise it after its results."""
        self._opened.append(session)
        self._begin(session, self._options)  # before `_read` runs
        await self._send(self._session_event("session.created", self._options))
        items = ItemEvents(self._service.meta.vocabulary)
        while True:
            take = await self._takes.get()
            items.begin(take.options.detects_turns, take.start_seconds)
            async for update in take.session.updates():
                if update.error is not None:
                    raise self._service.session_error(update.error, self._label)
                if take.ending is not Ending.CLEAR:
                    await self._send_all(items.update(update))
            is_due = take.ending is Ending.COMMIT and not items.has_ended
            if is_due or (take.ending is not Ending.CLEAR and items.is_open):
                # No audio is pushed until `is_sent` is set, so the difference is the length of this take.
                await self._send_all(items.commit(self._audio_seconds - take.start_seconds))
            take.is_sent.set()
            if self._error is not None and take.session is self._session:
                raise self._error

    def _session_event(self, kind: str, options: RealtimeOptions) -> str:
        return event(kind, session=options.record(self._service.rules) | {"id": self._id})

    async def _send_all(self, events: list[str]) -> None:
        for text in events:
            await self._send(text)

    # ----

    def _drop(self) -> None:
        for session in self._opened:
            session.close()
        super()._drop()
