"""Turns, which limit how many decoders compute at the same time."""

from __future__ import annotations

import asyncio
import os
from collections import deque

LEASE_SECONDS = 0.25  # longest turn: a decoder that hangs or lacks a core blocks others only for this time


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Turns:
    """Gives turns in the order of the requests, up to `count` at the same time.

    It replaces `asyncio.Semaphore`, which loses a turn if a task gets it at the moment when the task is cancelled.

    Args:
        count: number of simultaneous turns.

    >>> async def work(turns: Turns, name: str) -> None:
    ...     turn = await turns.take(seconds=10.0)
    ...     print(name)
    ...     turn.end()
    >>> async def both() -> None:
    ...     turns = Turns(1)
    ...     await asyncio.gather(work(turns, "first"), work(turns, "second"))
    >>> asyncio.run(both())
    first
    second
    """

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def running(self) -> int:
        """Number of turns that have not ended."""
        return self._count - self._free

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a turn."""
        return len(self._waiting)

    async def take(self, seconds: float) -> Turn:
        """Wait for a turn.

        Args:
            seconds: longest time to wait.
        Raises:
            asyncio.TimeoutError: there was no turn in this time.
        """
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        self._give()
        try:
            await asyncio.wait([mine], timeout=seconds)
            if not mine.done():
                raise asyncio.TimeoutError
        except BaseException:
            if mine.done():
                self.give_back()
            else:
                self._waiting.remove(mine)
            raise
        return Turn(self)

    def give_back(self) -> None:
        """End a turn."""
        self._free += 1
        self._give()

    def _give(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.popleft().set_result(None)


class Turn:
    """A turn, which lasts until `end` is called, at most for LEASE_SECONDS; `Turns.take` makes it.

    Args:
        turns: gets the turn back at its end.

    >>> async def work(turns: Turns) -> int:
    ...     turn = await turns.take(seconds=10.0)
    ...     running = turns.running
    ...     turn.end()
    ...     return running - turns.running
    >>> asyncio.run(work(Turns(2)))
    1
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._lease = asyncio.get_running_loop().call_later(LEASE_SECONDS, self.end)
        self._is_over = False

    def end(self) -> None:
        """End the turn, so that the next one can begin. A second call does nothing."""
        if not self._is_over:
            self._is_over = True
            self._lease.cancel()
            self._turns.give_back()
