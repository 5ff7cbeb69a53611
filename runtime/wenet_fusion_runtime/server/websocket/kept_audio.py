"""The audio of a recording that a client sends; it is kept until final results cover it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


class Recording(NamedTuple):
    """The audio to send.

    A thread reads the blocks. If it still waits for a block when no more audio is needed, `stop` is called; the
    iteration of `blocks` must then end soon.
    """

    blocks: Iterator[np.ndarray]  # samples (n,), float32
    is_paced: bool = False  # send no faster than real time
    is_live: bool = False  # the audio arrives in real time and is lost if nobody reads it
    stop: Callable[[], object] = lambda: None


class KeptAudio:
    """Reads a recording, and keeps the audio that no final result covers, so that another session can read it again.

    Args:
        recording: the audio.
        sample_rate: sample rate of the recording, Hz.
        ahead_seconds: length of the audio to read ahead, beginning with the first `read`. So live audio that arrives
            while there is no connection is kept too.

    >>> async def read_twice() -> list[list[float]]:
    ...     audio = KeptAudio(Recording(iter([np.zeros(2), np.ones(2)])), sample_rate=10)
    ...     await audio.read(), await audio.read()
    ...     audio.forget(0.3)
    ...     audio.rewind()
    ...     return [(await audio.read()).tolist(), audio.start_seconds]
    >>> asyncio.run(read_twice())
    [[1.0], 0.3]
    """

    def __init__(self, recording: Recording, sample_rate: int, ahead_seconds: float = 0.0) -> None:
        self._recording, self._rate = recording, sample_rate
        self._ahead_limit = round(ahead_seconds * sample_rate)
        self._kept: deque[np.ndarray] = deque()
        self._start = 0  # index of the first kept sample
        self._read = 0  # number of kept blocks that were read since `rewind`
        self._given = 0  # number of kept blocks that `read` returned at least once
        self._ahead = 0  # number of samples in the kept blocks that `read` has not returned yet
        self._has_room = asyncio.Event()  # set when `read` returns a block for the first time
        self._reading: asyncio.Future[None] | None = None  # the task that keeps the next block
        self._reading_ahead: asyncio.Future[None] | None = None
        self._is_over = False

    @property
    def is_paced(self) -> bool:
        """True if audio is sent no faster than real time."""
        return self._recording.is_paced

    @property
    def start_seconds(self) -> float:
        """Time of the first kept sample, where another session begins."""
        return self._start / self._rate

    async def read(self) -> np.ndarray | None:
        """Return the next block; None after the last one.

        Raises:
            ValueError, OSError: the recording cannot be read.
        """
        if self._ahead_limit and self._reading_ahead is None:
            self._reading_ahead = asyncio.ensure_future(self._read_ahead())
        if self._read == len(self._kept) and not self._is_over:
            await self._fetch()
        if self._read == len(self._kept):
            return None
        self._read += 1
        block = self._kept[self._read - 1]
        if self._read > self._given:
            self._given = self._read
            self._ahead -= len(block)
            self._has_room.set()
        return block

    async def _read_ahead(self) -> None:
        while not self._is_over:
            if self._ahead < self._ahead_limit:
                await self._fetch()
            else:
                self._has_room.clear()
                await self._has_room.wait()

    async def _fetch(self) -> None:
        """Keep the next block."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._keep_next())
        await asyncio.shield(self._reading)  # if this caller is cancelled, the next one awaits the same block

    async def _keep_next(self) -> None:
        block = await asyncio.to_thread(next, self._recording.blocks, None)
        if block is None:
            self._is_over = True
        else:
            self._kept.append(block)
            self._ahead += len(block)
        self._reading = None  # after an error this line is not reached, so every later caller gets the error too

    def forget(self, seconds: float) -> None:
        """Drop the samples before `seconds`, the time up to which final results cover the recording."""
        covered = round(seconds * self._rate)
        while self._read and self._start < covered:
            block = self._kept[0]
            dropped = min(len(block), covered - self._start)
            self._start += dropped
            if dropped < len(block):
                self._kept[0] = block[dropped:]
            else:
                self._kept.popleft()
                self._read -= 1
                self._given -= 1

    def rewind(self) -> None:
        """Make `read` begin again with the first kept sample."""
        self._read = 0

    async def end(self) -> None:
        """Stop reading, and wait until the reading thread has ended. Then the caller may close the source."""
        if self._reading_ahead is not None:
            self._reading_ahead.cancel()
            await asyncio.gather(self._reading_ahead, return_exceptions=True)
        if self._reading is not None:
            if not self._reading.done():
                self._recording.stop()
            await asyncio.gather(self._reading, return_exceptions=True)
