"""Read ahead in a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import NamedTuple, TypeVar

T = TypeVar("T")
_CHECK_SECONDS = 0.5  # interval at which the thread checks whether the reader has stopped


class _End(NamedTuple):
    error: Exception | None


def read_ahead(items: Generator[T, None, None]) -> Iterator[T]:
    """Yield the items of a generator that runs up to two items ahead in a thread; the thread also closes the generator.

    >>> list(read_ahead(number * number for number in range(4)))
    [0, 1, 4, 9]
    """
    ready: queue.Queue[T | _End] = queue.Queue(maxsize=1)
    is_closed = threading.Event()

    def offer(item: T | _End) -> None:
        while not is_closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=_CHECK_SECONDS)
                return

    def work() -> None:
        end = _End(None)
        try:
            for item in items:
                offer(item)
                if is_closed.is_set():
                    return
        except Exception as error:
            end = _End(error)
        finally:
            items.close()
            offer(end)

    threading.Thread(target=work, name="read_ahead", daemon=True).start()  # a hanging server must not delay the exit
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        is_closed.set()
