"""Processes that share an evaluation: ranks started by torchrun, or one process alone."""

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import torch.distributed as dist

T = TypeVar("T")

PATIENCE_SECONDS = 1800.0  # time that a rank waits for another one's share


class Ranks(NamedTuple):
    """The number of this process and of all processes. Every rank makes the same calls in the same order.

    >>> Ranks(rank=1, world=2).share(["a", "b", "c", "d"])
    ['b', 'd']
    """

    rank: int = 0
    world: int = 1

    def share(self, items: list[T]) -> list[T]:
        """Return this rank's share: every `world`-th item, so that a sorted list gives similar shares."""
        return items[self.rank :: self.world]

    def first(self, value: T) -> T:
        """Return the value of rank 0 in every rank.

        Raises:
            OSError: a rank has ended or does not answer in time.
        """
        if self.world == 1:
            return value
        values = [value]
        with _loss_as_error():
            dist.broadcast_object_list(values)
        return values[0]

    def all(self, value: T) -> list[T]:
        """Return the values of all ranks in every rank.

        Raises:
            OSError: a rank has ended or does not answer in time.
        """
        if self.world == 1:
            return [value]
        values: list[T] = [value] * self.world
        with _loss_as_error():
            dist.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the ranks that torchrun's environment names, over gloo; without it, this process is the only rank.

    Raises:
        OSError: the other ranks cannot be reached.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    with _loss_as_error():
        dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=PATIENCE_SECONDS))
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _loss_as_error() -> Iterator[None]:
    """Turn gloo's errors about broken or silent connections into one line."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"another rank has ended, or does not answer; its own message says why ({reason})") from error
