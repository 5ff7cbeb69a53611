"""Deadlines for coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(awaitable: Awaitable[T], seconds: float) -> T:
    """Return the result of an awaitable, or cancel it after `seconds`.

    It replaces `asyncio.wait_for`, which before Python 3.12 drops a cancellation that arrives together with the result:
    the upload of a client that has hung up would then be decoded to its end.

    Raises:
        asyncio.TimeoutError: there was no result in this time.

    >>> asyncio.run(within(asyncio.sleep(0, "done"), seconds=10))
    'done'
    """
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait([task], timeout=seconds)
        if task.done():
            return task.result()
        raise asyncio.TimeoutError
    finally:
        if task.cancel():
            await asyncio.gather(task, return_exceptions=True)
        elif not task.cancelled():
            task.exception()  # retrieves the error, because asyncio would log it otherwise
