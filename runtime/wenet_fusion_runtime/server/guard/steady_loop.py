"""An event loop whose clock stops while the process is suspended, so that clients do not miss deadlines meanwhile."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

STAND_STILL = 2.0  # a longer gap between two readings of the clock, in seconds, means that the process was suspended
TICK_SECONDS = 0.5  # the event loop wakes up at least this often


class SteadyLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time` omits the time in which the process did not run.

    While a computer is suspended, a container paused or a process stopped (SIGSTOP), the system's clock goes on. When
    the process continues, the deadlines of all clients would have passed.

    >>> loop = SteadyLoop()
    >>> loop.run_until_complete(asyncio.sleep(0, "done"))
    'done'
    >>> loop.close()
    """

    def __init__(self) -> None:
        self._skipped = self._seen = 0.0
        super().__init__()
        self._seen = super().time()

    def time(self) -> float:
        """Return the seconds for which the event loop has run."""
        now = super().time()
        gap, self._seen = now - self._seen, now
        if gap > STAND_STILL and self.is_running():
            self._skipped += gap - TICK_SECONDS
        return now - self._skipped

    def run_forever(self) -> None:
        """Run, and read the clock repeatedly."""
        ticking = self.call_soon(self._tick)
        try:
            super().run_forever()
        finally:
            ticking.cancel()
            self._next.cancel()

    def _tick(self) -> None:
        self._next = self.call_later(TICK_SECONDS, self._tick)

    _next: asyncio.Handle


def run_steadily(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end in an event loop of its own."""
    if sys.version_info >= (3, 11) and sys.platform != "win32":
        with asyncio.Runner(loop_factory=SteadyLoop) as runner:
            runner.run(main)
    else:  # Python 3.10 cannot choose the loop; on Windows a selector loop serves at most 512 connections
        asyncio.run(main)
