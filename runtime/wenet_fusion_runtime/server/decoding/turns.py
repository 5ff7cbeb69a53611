"""Turns: how many decoders may compute at once."""

from __future__ import annotations

import asyncio
import os
from collections import deque

LEASE_SECONDS = 0.25  # longest turn; then the next one begins, so decoders that hang or lack a core stop no others


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Turns:
    """Gives turns in the order in which they were asked for, some at once.

    `asyncio.Semaphore` loses a turn that is given to a task in the moment in which that task is cancelled.

    Args:
        count: turns at once.

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
        """Number of those who wait."""
        return len(self._waiting)

    async def take(self, seconds: float) -> Turn:
        """Wait for a turn.

        Args:
            seconds: longest time to wait.
        Raises:
            asyncio.TimeoutError: the time is over.
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
    """A turn, until it is ended or has lasted LEASE_SECONDS; made by `Turns.take`.

    Args:
        turns: get it back.

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
        """Let the next one begin. A second call does nothing."""
        if not self._is_over:
            self._is_over = True
            self._lease.cancel()
            self._turns.give_back()
