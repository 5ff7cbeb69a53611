"""Write files in a thread while training goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class BackgroundWriter:
    """Run writes one after another, in the order of submission; with `enabled`, in a thread.

    If a write fails, later ones are dropped, and the next call raises the error.

    Args:
        enabled: use a thread; otherwise `submit` runs the write itself.

    >>> writer, done = BackgroundWriter(enabled=True), []
    >>> writer.submit(lambda: done.append("model"))
    >>> writer.submit(lambda: done.append("state"))
    >>> writer.wait()
    >>> done
    ['model', 'state']
    """

    def __init__(self, enabled: bool) -> None:
        self._pool = ThreadPoolExecutor(1, "writer") if enabled else None
        self._writes: list[Future[None]] = []
        self._failed = False

    def own(self, content: T) -> T:
        """Return content that training will not change: a copy on the CPU if there is a thread, else the original."""
        return content if self._pool is None else copy_to_cpu(content)

    def submit(self, write: Callable[[], None]) -> None:
        """Run a write, or queue it for the thread."""
        self.check()
        if self._pool is None:
            write()
        else:
            self._writes.append(self._pool.submit(self._run, write))

    def check(self) -> None:
        """Raise the error of a failed write, without waiting for unfinished ones."""
        while self._writes and self._writes[0].done():
            self._writes.pop(0).result()

    def wait(self) -> None:
        """Wait until all writes are done.

        Raises:
            OSError: a write failed, e.g. because the disk is full.
        """
        while self._writes:
            self._writes.pop(0).result()

    def close(self) -> None:
        """Let the thread finish its writes, then end it; `wait` raises their errors."""
        if self._pool is not None:
            self._pool.shutdown()

    def _run(self, write: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            write()
        except BaseException:
            self._failed = True
            raise


def copy_to_cpu(content: T) -> T:
    """Return a deep copy whose tensors are on the CPU.

    >>> copy_to_cpu({"weights": torch.ones(1)})
    {'weights': tensor([1.])}
    """
    copies: dict[int, object] = {}
    for tensor in _tensors(content):
        copies[id(tensor)] = tensor.detach().to("cpu", copy=True)
    return copy.deepcopy(content, copies)


def _tensors(content: object) -> list[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        return [content]
    if isinstance(content, dict):
        return [tensor for value in content.values() for tensor in _tensors(value)]
    if isinstance(content, (list, tuple)):
        return [tensor for value in content for tensor in _tensors(value)]
    return (
        [tensor for value in vars(content).values() for tensor in _tensors(value)]
        if hasattr(content, "__dataclass_fields__")
        else []
    )
