"""Processes that share a training or an evaluation: ranks started by torchrun, or one process alone."""

import contextlib
import datetime
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

# gloo raises plain RuntimeErrors: only their text shows whether a connection has failed.
_CONNECTION = re.compile("gloo|connection (closed|reset)|broken pipe|TCPStore|timed out", re.IGNORECASE)
PATIENCE_SECONDS = 1800.0  # timeout of a rank that waits for another one


class Ranks(NamedTuple):
    """The rank of this process, and the number of processes. All ranks must call `first` and `all` in the same order.

    >>> Ranks(rank=1, world=2).share(["a", "b", "c", "d"])
    ['b', 'd']
    """

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Return whether this is rank 0, which prints progress and writes the results."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this rank's share: every `world`-th item. The shares of a sorted list hold similar items."""
        return list(items[self.rank :: self.world])

    def first(self, value: T) -> T:
        """Return rank 0's value, in every rank.

        Raises:
            OSError: a rank has ended or does not answer in time.
        """
        if self.world == 1:
            return value
        values = [value]
        with loss_as_error():
            dist.broadcast_object_list(values)
        return values[0]

    def all(self, value: T) -> list[T]:
        """Return the values of all ranks, in every rank.

        Raises:
            OSError: a rank has ended or does not answer in time.
        """
        if self.world == 1:
            return [value]
        values: list[T] = [value] * self.world
        with loss_as_error():
            dist.all_gather_object(values, value)
        return values


class Placement(NamedTuple):
    """The device of this process, and the ranks that share the work.

    >>> Placement(torch.device("cpu")).ranks.world
    1
    """

    device: torch.device
    ranks: Ranks = Ranks()


@contextlib.contextmanager
def joined_ranks(device: torch.device = torch.device("cpu")) -> Iterator[Ranks]:
    """Join the ranks that torchrun's environment variables define; without them, this process is the only rank.

    Args:
        device: device of this rank. GPU tensors are sent over NCCL, others over gloo.

    Raises:
        OSError: the other ranks cannot be reached.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with loss_as_error():
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=PATIENCE_SECONDS))
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def loss_as_error() -> Iterator[None]:
    """Turn the errors of gloo and NCCL about broken or silent connections into an error of one line.

    Raises:
        OSError: another rank has ended, or does not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _CONNECTION.search(str(error)):
            raise
        reason = str(error).splitlines()[0]
        raise OSError(f"another rank has ended, or does not answer ({reason}); see that rank's messages") from error
