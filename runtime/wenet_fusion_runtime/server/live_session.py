"""A session of an engine for asyncio: `push` waits for room, and updates are an asynchronous iterator."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import numpy as np

from wenet_fusion_runtime.engine.engine import Engine
from wenet_fusion_runtime.engine.session import Backlog, Session, Update
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.stream.stream import Stream

# Audio per push. The engine's max_waiting_seconds must exceed this plus a chunk, else `push` waits forever.
PIECE_SECONDS = 0.5
Changed = TypeVar("Changed")
FormatAll = Callable[[tuple[Result, ...]], Awaitable[tuple[Result, ...]]]

MAX_UPDATES = 64  # `push` waits while this many updates are waiting


class LiveSession:
    """A session of an engine for the tasks of one event loop. The loop must run until the session is over or the engine
    is shut down.

    Args:
        engine: opens the session.
        stream: a fresh stream of the engine's model.
        on_dropped: called when a newer update replaces a partial result that was not yet yielded.
        after: an open session that is about to end; see `Engine.open`.
        format_all: formats closed segments before their update is yielded; None: they are not formatted.
    Raises:
        Unavailable: the engine opens no session.

    >>> async def recognise(engine: Engine, stream: Stream, samples: np.ndarray) -> list[Update]:
    ...     session = LiveSession(engine, stream, on_dropped=print)
    ...     await session.push(samples, sample_rate=16000)
    ...     session.end()
    ...     return [update async for update in session.updates()]
    """

    def __init__(
        self,
        engine: Engine,
        stream: Stream,
        on_dropped: Callable[[], object],
        after: LiveSession | None = None,
        format_all: FormatAll | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_dropped, self._format_all = on_dropped, format_all
        self._updates: deque[Update] = deque()
        self._arrived = asyncio.Event()  # an update is waiting
        self._room = asyncio.Event()  # there may be more room than before
        self._ended = False
        self._session: Session = engine.open(
            stream,
            lambda update: self._loop.call_soon_threadsafe(self._take, update),
            lambda: self._loop.call_soon_threadsafe(self._room.set),
            None if after is None else after._session,
        )

    async def push(self, samples: np.ndarray, sample_rate: int) -> None:
        """Add samples (n,); wait while the engine has no room or too many updates are waiting.

        Samples after `end` or after an error are dropped.
        """
        size = max(1, round(PIECE_SECONDS * sample_rate))
        for start in range(0, len(samples), size):
            piece = samples[start : start + size]
            while self._is_full(len(piece) / sample_rate):
                self._room.clear()  # only this loop sets it, so it stays clear until the next line
                await self._room.wait()
            if self._ended or not self._session.is_open:
                return
            self._session.push(piece, sample_rate)

    def _is_full(self, seconds: float) -> bool:
        if self._ended or not self._session.is_open:
            return False
        return len(self._updates) >= MAX_UPDATES or self._session.room_seconds < seconds

    async def change(self, change: Callable[[Session], Changed]) -> Changed:
        """Change the session's hot words or context; wait while too many changes are waiting.

        Args:
            change: called in a thread; calls the session's `set_hot_words` or `set_context`.
        Raises:
            ValueError: raised by `change`.
        """
        while True:
            self._room.clear()
            try:
                return await asyncio.to_thread(change, self._session)
            except Backlog:
                await self._room.wait()

    def end(self) -> None:
        """Mark the end of the audio; the last update follows. A second call does nothing."""
        if not self._ended:
            self._ended = True
            self._session.end()
            self._room.set()

    def close(self) -> None:
        """Drop the session; no update follows. A second call does nothing."""
        self._session.close()
        self._room.set()

    async def updates(self) -> AsyncIterator[Update]:
        """Yield the updates up to the last one, without partial results that a newer one has replaced."""
        while True:
            while not self._updates:
                self._arrived.clear()
                await self._arrived.wait()
            update = self._updates.popleft()
            self._room.set()
            if self._format_all is not None and update.finals:
                update = update._replace(finals=await self._format_all(update.finals))
            yield update
            if update.is_last:
                return

    def _take(self, update: Update) -> None:
        last = self._updates[-1] if self._updates else None
        if last is not None and not last.finals and not last.is_last:
            self._updates.pop()
            self._on_dropped()
        self._updates.append(update)
        self._arrived.set()
        self._room.set()
