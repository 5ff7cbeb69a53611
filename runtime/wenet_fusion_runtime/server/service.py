"""The state that connections and uploads share: recognizers, the engine, limits, metrics and the shutdown."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from wenet_fusion_runtime.engine.engine import Engine
from wenet_fusion_runtime.engine.session import Unavailable
from wenet_fusion_runtime.model.conformance import ModelFault
from wenet_fusion_runtime.model.metadata import ANY
from wenet_fusion_runtime.results.formatters import Formatter, formatted
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.server.decoding.decoders import Decoders
from wenet_fusion_runtime.server.errors import (
    NORMAL,
    ClientError,
    Reason,
    internal_error,
    limit_reached,
    shutting_down,
)
from wenet_fusion_runtime.server.guard.addresses import Sessions
from wenet_fusion_runtime.server.guard.server_log import NAME
from wenet_fusion_runtime.server.http.metrics import Metrics
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.server.live_session import LiveSession
from wenet_fusion_runtime.server.session_options import SessionOptions
from wenet_fusion_runtime.server.settings import ChunkChoice
from wenet_fusion_runtime.stream.decoding_options import FILE_OPTIONS
from wenet_fusion_runtime.stream.recognizer import Recognizer
from wenet_fusion_runtime.stream.stream import Stream

LOG = logging.getLogger(NAME)
# Time and memory of attention grow with the square of the chunk, and two chunks of a session's audio may wait.
LONGEST_CHUNK_SECONDS = 4.0  # longest chunk that a session may choose if the model accepts any
FINISH_SECONDS = 5.0  # time for a session that is ended early to decode and send its text
_POLL_SECONDS = 0.02


class Client(Protocol):
    """A client that is being served: a connection or an upload."""

    def drain(self) -> None:
        """Let a session or upload that has begun finish; close the connection if none has begun."""

    def end_early(self, error: ClientError) -> None:
        """Stop receiving; send the results so far, then the error."""


class Service:
    """State shared by the tasks of one event loop.

    Args:
        recognizer: creates the streams of live sessions; uploads use the endpoint rules of files.
        engine: engine of the recognizer's model; decodes the streams.
        limits: limits of sessions and connections.
        chunks: default chunk size of sessions.

    >>> async def open_session(recognizer: Recognizer, engine: Engine) -> LiveSession:
    ...     service = Service(recognizer, engine, Limits(sessions=10))
    ...     return await service.open(SessionOptions(chunk=16))
    """

    def __init__(
        self, recognizer: Recognizer, engine: Engine, limits: Limits, chunks: ChunkChoice = ChunkChoice()
    ) -> None:
        self.engine, self.limits, self.chunks = engine, limits, chunks
        self.meta, self._formatter = recognizer.model.meta, recognizer.options.formatter
        if self._formatter is not None:  # in a worker of the engine, a slow formatter would delay all sessions
            recognizer = Recognizer(recognizer.model, replace(recognizer.options, formatter=None))
        self._formatting = ThreadPoolExecutor(1, "formatter")
        self.recognizer = recognizer
        self.metrics = Metrics(lambda: engine.statistics)
        self.sessions = Sessions(limits.sessions_of_one_address)
        self.rules, self.file_rules = recognizer.options.endpoint, FILE_OPTIONS.endpoint
        self.decoders = Decoders(limits.progress_seconds, limits.decoders)
        self.is_draining = False
        self._files = Recognizer(
            recognizer.model,
            replace(recognizer.options, endpoint=self.file_rules, commit_seconds=FILE_OPTIONS.commit_seconds),
        )
        self._clients: set[Client] = set()

    @property
    def clients(self) -> int:
        """Number of clients that are being served."""
        return len(self._clients)

    def add(self, client: Client) -> None:
        """Add a client; `drain` waits for it."""
        self._clients.add(client)

    def remove(self, client: Client) -> None:
        """Remove a client that has been served."""
        self._clients.discard(client)

    async def open(
        self, options: SessionOptions, is_file: bool = False, after: LiveSession | None = None
    ) -> LiveSession:
        """Open a session.

        Args:
            options: options of the session.
            is_file: decode an uploaded file. Its session opens even during a shutdown, because the upload has begun.
            after: an open session of the same client that is about to end; see `Engine.open`.
        Raises:
            ClientError: the options do not suit the model, too many sessions are open, or the server is shutting down.
        """
        if not is_file and after is None:
            self.check_draining()
        try:
            # In a thread, because building the automaton of many hot words takes time.
            stream = await asyncio.to_thread(self._stream, options, is_file)
        except ModelFault as error:
            raise self.session_error(error, "a new session") from None
        except ValueError as error:
            raise ClientError(Reason.OPTION, str(error), NORMAL) from None
        try:
            format_all = None if self._formatter is None else self._format_all
            return LiveSession(self.engine, stream, self.metrics.count_dropped_partial, after, format_all)
        except Unavailable as error:
            self.check_draining()
            raise limit_reached(str(error)) from None

    def check_room(self) -> None:
        """Raise ClientError if the limit of open sessions is reached."""
        if self.engine.statistics.sessions >= self.limits.sessions:
            raise limit_reached(f"the limit of {self.limits.sessions} open sessions is reached")

    def check_draining(self) -> None:
        """Raise ClientError if the server is shutting down."""
        if self.is_draining:
            raise shutting_down()

    def session_error(self, error: Exception, label: str) -> ClientError:
        """Return the error to send to a client for an error in its session; log unexpected errors."""
        if isinstance(error, ModelFault):
            LOG.error("%s: the session failed: %s", label, error)
            return internal_error()
        if isinstance(error, ValueError):
            return ClientError(Reason.SAMPLES, str(error), NORMAL)
        if isinstance(error, Unavailable):
            return shutting_down()
        LOG.error("%s: the session failed", label, exc_info=error)
        return internal_error()

    def report(self, error: ClientError, label: str) -> None:
        """Count an error and log it on one line."""
        self.metrics.count_error(error.reason)
        LOG.info("%s: refused (%s): %s", label, error.reason.value, error.message)

    async def drain(self, seconds: float, hurry: asyncio.Event) -> int:
        """Refuse new clients, wait for the others to finish, then end the rest, which get their results so far.

        Args:
            seconds: longest time to wait.
            hurry: ends the wait when set.
        Returns:
            The number of clients that had to be ended.
        """
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

    async def _format_all(self, finals: tuple[Result, ...]) -> tuple[Result, ...]:
        """Format closed segments in a separate thread, one session after the other."""

        def run(formatter: Formatter) -> tuple[Result, ...]:
            return tuple(formatted(result, formatter) for result in finals)

        assert self._formatter is not None
        return await asyncio.get_running_loop().run_in_executor(self._formatting, run, self._formatter)

    def _stream(self, options: SessionOptions, is_file: bool) -> Stream:
        recognizer = self._files if is_file else self.recognizer
        chunk, left = self.chunks.chunk, self.chunks.left
        longest = max(LONGEST_CHUNK_SECONDS, (chunk or self.meta.default_chunk) * self.meta.frame_seconds)
        is_free = self.meta.chunk_rule == ANY and not self.chunks.allow_untrained
        if is_free and (options.chunk or 0) * self.meta.frame_seconds > longest:
            raise ValueError(
                f"chunk {options.chunk}: a session may have chunks of at most {longest:g} s, "
                f"{round(longest / self.meta.frame_seconds)} frames, unless the server has --allow_untrained"
            )
        if options.chunk is not None or options.left is not None:
            chunk, left = options.chunk if options.chunk is not None else chunk, options.left
        biasing = options.hot_words, options.context, options.grammar
        return recognizer.create_stream(chunk, left, self.chunks.allow_untrained, options.endpoint, *biasing)
