"""The processes that share an evaluation: started by torchrun, or one alone. Knows not what they do."""

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import torch.distributed as dist

T = TypeVar("T")

PATIENCE_SECONDS = 1800.0  # how long a rank waits for another one's share


class Ranks(NamedTuple):
    """Which of how many processes this one is. Every rank makes the same calls in the same order."""

    rank: int = 0
    world: int = 1

    def share(self, items: list[T]) -> list[T]:
        """Every `world`-th item, so that shares of a list in any order are alike."""
        return items[self.rank :: self.world]

    def first(self, value: T) -> T:
        """The value of rank 0, in every rank. Raises OSError if a rank is gone."""
        if self.world == 1:
            return value
        values = [value]
        with _told_of_losses():
            dist.broadcast_object_list(values)
        return values[0]

    def all(self, value: T) -> list[T]:
        """The values of all ranks, in every rank. Raises OSError if a rank is gone, or does not answer in time."""
        if self.world == 1:
            return [value]
        values: list = [None] * self.world
        with _told_of_losses():
            dist.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The ranks that torchrun's environment names, joined over gloo; one alone without it.

    Raises:
        OSError: the others cannot be reached.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    with _told_of_losses():
        dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=PATIENCE_SECONDS))
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _told_of_losses() -> Iterator[None]:
    """What gloo raises when a connection breaks, or nothing comes in time, as one line."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"another rank has ended, or does not answer; its own message says why ({reason})") from error
