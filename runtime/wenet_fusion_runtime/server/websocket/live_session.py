"""An engine's session for the tasks of an event loop: pushing waits for room, updates are awaited. Knows no sockets."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

import numpy as np

from wenet_fusion_runtime.engine.engine import Engine
from wenet_fusion_runtime.engine.session import Update
from wenet_fusion_runtime.stream.recognizer import Stream

PIECE_SECONDS = 0.5  # audio is pushed in pieces at most so long, for which there is room sooner or later
MAX_UPDATES = 64  # that may wait for whoever awaits them while more audio is pushed


class LiveSession:
    """Used by the tasks of one event loop, which must run until the engine is shut down or the session is over.

    Args:
        engine: where the session is opened.
        stream: a fresh one.
        on_superseded: called when an update was replaced by a newer one before somebody took it.
    Raises:
        Unavailable: see `Engine.open`.
    """

    def __init__(self, engine: Engine, stream: Stream, on_superseded: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_superseded = on_superseded
        self._updates: deque[Update] = deque()
        self._arrived = asyncio.Event()  # an update is there
        self._room = asyncio.Event()  # there may be more room than before
        self._ended = False
        self._session = engine.open(stream, lambda update: self._loop.call_soon_threadsafe(self._take, update))

    async def push(self, samples: np.ndarray, sample_rate: int) -> None:
        """Add samples, waiting while the engine is behind, or while nobody takes the updates. What comes after `end` or
        after an error is ignored."""
        size = max(1, round(PIECE_SECONDS * sample_rate))
        for start in range(0, len(samples), size):
            piece = samples[start : start + size]
            while self._is_full(len(piece) / sample_rate):
                self._room.clear()  # what sets it runs in this loop, so not between these lines
                await self._room.wait()
            if self._ended or not self._session.is_open:
                return
            self._session.push(piece, sample_rate)

    def _is_full(self, seconds: float) -> bool:
        if self._ended or not self._session.is_open:
            return False
        return len(self._updates) >= MAX_UPDATES or self._session.room_seconds < seconds

    def end(self) -> None:
        """No more audio comes; the last update follows. Calling it again changes nothing."""
        if not self._ended:
            self._ended = True
            self._session.end()
            self._room.set()

    def close(self) -> None:
        """Drop the session; nothing follows. Calling it again changes nothing."""
        self._session.close()
        self._room.set()

    async def updates(self) -> AsyncIterator[Update]:
        """The updates up to the last one, without partial results that are out of date."""
        while True:
            while not self._updates:
                self._arrived.clear()
                await self._arrived.wait()
            update = self._updates.popleft()
            self._room.set()
            yield update
            if update.is_last:
                return

    def _take(self, update: Update) -> None:
        last = self._updates[-1] if self._updates else None
        if last is not None and not last.finals and not last.is_last:
            self._updates.pop()
            self._on_superseded()
        self._updates.append(update)
        self._arrived.set()
        self._room.set()
