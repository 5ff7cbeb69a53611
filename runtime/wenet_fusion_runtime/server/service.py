"""What connections and uploads share: recognizers, the engine, limits, counts and the drain. Knows no sockets."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Protocol

from wenet_fusion_runtime.engine.engine import Engine
from wenet_fusion_runtime.engine.session import Unavailable
from wenet_fusion_runtime.server.errors import GOING_AWAY, INTERNAL, NORMAL, TRY_LATER, Reason, Refusal
from wenet_fusion_runtime.server.http.metrics import Metrics
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.server.settings import ChunkChoice
from wenet_fusion_runtime.server.websocket.live_session import LiveSession
from wenet_fusion_runtime.server.websocket.protocol import SessionOptions
from wenet_fusion_runtime.stream.recognizer import Recognizer, Stream
from wenet_fusion_runtime.stream.segments import FILE_OPTIONS

LOG = logging.getLogger("wenet_fusion_runtime.server")
FINISH_SECONDS = 5.0  # for what was said until a session was ended to be recognised and sent
_POLL_SECONDS = 0.02


class Client(Protocol):
    """A client that is being served."""

    def drain(self) -> None:
        """Go on, unless nothing has begun."""

    def end_early(self, refusal: Refusal) -> None:
        """Recognise what has come, send it, then the refusal."""


class Service:
    """Used by the tasks of one event loop.

    Args:
        recognizer: makes the streams of live sessions; those of uploads have the rules of files.
        engine: of the recognizer's model.
        limits, chunks: see there.
    """

    def __init__(
        self, recognizer: Recognizer, engine: Engine, limits: Limits, chunks: ChunkChoice = ChunkChoice()
    ) -> None:
        self.recognizer, self.engine, self.limits, self.chunks = recognizer, engine, limits, chunks
        self.meta = recognizer.model.meta
        self.metrics = Metrics(lambda: engine.statistics)
        self.rules, self.file_rules = recognizer.options.endpoint, FILE_OPTIONS.endpoint
        self.is_draining = False
        self._files = Recognizer(
            recognizer.model,
            replace(recognizer.options, endpoint=self.file_rules, commit_seconds=FILE_OPTIONS.commit_seconds),
        )
        self._clients: set[Client] = set()

    @property
    def clients(self) -> int:
        """How many are being served."""
        return len(self._clients)

    def add(self, client: Client) -> None:
        self._clients.add(client)

    def remove(self, client: Client) -> None:
        self._clients.discard(client)

    async def open(self, options: SessionOptions, is_file: bool = False) -> LiveSession:
        """Begin a session; that of a file belongs to an upload, which may have begun before the server is shutting down.

        Raises:
            Refusal: the options do not suit the model, too many sessions are open, or the server is shutting down.
        """
        if not is_file:
            self.check_draining()
        try:
            # Hot words cost time, which other sessions need not spend.
            stream = await asyncio.to_thread(self._stream, options, is_file)
        except ValueError as error:
            raise Refusal(Reason.OPTION, str(error), NORMAL) from None
        try:
            return LiveSession(self.engine, stream, self.metrics.superseded)
        except Unavailable as error:
            self.check_draining()
            raise Refusal(Reason.FULL, f"{error}; try again later", TRY_LATER) from None

    def check_draining(self) -> None:
        """Raises Refusal if nothing may begin any more."""
        if self.is_draining:
            raise shutting_down()

    def failure(self, error: Exception, who: str) -> Refusal:
        """What a client is told of an error in its session."""
        if isinstance(error, ValueError):
            return Refusal(Reason.SAMPLES, str(error), NORMAL)
        if isinstance(error, Unavailable):
            return shutting_down()
        LOG.error("%s: the session failed", who, exc_info=error)
        return Refusal(Reason.INTERNAL, "the server failed; its log says why", INTERNAL)

    def refused(self, refusal: Refusal, who: str) -> None:
        """Counts and logs, on one line: what a client has sent may be part of the message."""
        self.metrics.refused(refusal.reason)
        shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in refusal.message)
        LOG.info("%s: refused (%s): %s", who, refusal.reason.value, shown)

    async def drain(self, seconds: float, hurry: asyncio.Event) -> int:
        """Begin nothing more and wait until everybody is served, `seconds` at most and less once `hurry` is set. Then end
        what is left, with its results so far. Returns how many clients had to be ended."""
        self.is_draining = True
        for client in list(self._clients):
            client.drain()
        await self._until_empty(seconds, hurry)
        left = list(self._clients)
        for client in left:
            client.end_early(shutting_down())
        await self._until_empty(FINISH_SECONDS, asyncio.Event())
        return len(left)

    async def _until_empty(self, seconds: float, hurry: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self._clients and loop.time() < end and not hurry.is_set():
            await asyncio.sleep(_POLL_SECONDS)

    def _stream(self, options: SessionOptions, is_file: bool) -> Stream:
        recognizer = self._files if is_file else self.recognizer
        chunk, left = self.chunks.chunk, self.chunks.left
        if options.chunk is not None or options.left is not None:
            chunk, left = options.chunk if options.chunk is not None else chunk, options.left
        return recognizer.create_stream(chunk, left, self.chunks.allow_untrained, options.endpoint, options.hot_words)


def shutting_down() -> Refusal:
    return Refusal(Reason.SHUTDOWN, "the server is shutting down; connect again", GOING_AWAY)
