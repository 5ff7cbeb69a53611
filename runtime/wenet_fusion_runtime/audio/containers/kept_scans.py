"""Cache what a scan of a large audio file found: its joined streams and their lengths.

Each segment of a long recording opens the file again. Without the cache, it would also scan the file again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar, cast

from wenet_fusion_runtime.audio.containers.byte_ranges import Window

LARGE_BYTES = 1 << 20  # smallest size of a file whose scan is kept
_MOST_KEPT = 4096  # scans
T = TypeVar("T")


def scan(find: Callable[[Window], T], window: Window, path: str | None) -> T:
    """Return the result of `find` on a file. The result for a large file is kept and reused until the file changes.

    Args:
        find: a module-level function, so that it is the same object in each call; its result must not be changed.
        window: reads the file.
        path: path of the file; None for a file without a path, whose result is not kept.
    """
    if path is None or window.size < LARGE_BYTES:
        return find(window)
    status = os.stat(path)
    state = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return cast(T, _kept(find, path, state))


@lru_cache(maxsize=_MOST_KEPT)
def _kept(find: Callable[[Window], object], path: str, state: tuple[int, ...]) -> object:
    with open(path, "rb") as file:
        return find(Window(file))
