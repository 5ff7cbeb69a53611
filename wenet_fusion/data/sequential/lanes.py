"""Lanes: each reads a part of an epoch's shards in sequence, and the lanes give batches in turn.

Batch n of an epoch comes from lane n modulo the number of lanes, and goes to rank n modulo the number of ranks. So the
batches do not depend on the number of ranks, as long as the number of lanes is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from wenet_fusion.data.batching import cut_batches
from wenet_fusion.data.judgement import Judge, Skip
from wenet_fusion.data.sequential.shards import Shard
from wenet_fusion.data.sources import Utterance, header_or_problem

_EARLY = 64  # a lane makes its first batches from this number of utterances


class PlannedUtterance(NamedTuple):
    """A usable utterance in memory, not yet decoded."""

    utterance: Utterance
    tokens: list[int]
    place: tuple[int, int]  # number of the shard in the list, and of the utterance in the shard


class Release(NamedTuple):
    """The next batches of a lane, and what it has read since its last release."""

    batches: list[list[PlannedUtterance]]
    seen: int  # utterances read
    skips: list[Skip]  # utterances that cannot be used, or that a filter leaves out
    failed: list[Skip]  # shards that cannot be read completely


class LaneSettings(NamedTuple):
    """Limits of the batches of a lane, and of its buffer.

    >>> LaneSettings(shuffle_buffer=500, retries=5, max_batch_seconds=400.0, max_batch_rows=200).retries
    5
    """

    shuffle_buffer: int  # most utterances in a lane's buffer; a full buffer releases a random half as batches
    retries: int  # see `read_members`
    max_batch_seconds: float
    max_batch_rows: int


class Slots(NamedTuple):
    """The lanes of a rank, and the number of batches that the rank has taken from them.

    >>> Slots(lanes=8, rank=1, world=2, start=3).own()
    [1, 3, 5, 7]
    """

    lanes: int  # number of lanes of all ranks, a multiple of `world`
    rank: int
    world: int
    start: int  # number of batches that this rank has already done

    def own(self) -> list[int]:
        """Return the numbers of the rank's lanes, in the order of their turns."""
        return list(range(self.rank, self.lanes, self.world))


def deal_shards(shards: int, lanes: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the numbers of the shards of each lane in an epoch, in random order.

    >>> sorted(number for lane in deal_shards(7, 3, seed=0, epoch=1) for number in lane)
    [0, 1, 2, 3, 4, 5, 6]
    """
    order = np.random.default_rng([seed, epoch]).permutation(shards).tolist()
    return [order[lane::lanes] for lane in range(lanes)]


def lane_releases(
    shards: Sequence[tuple[int, Shard]], judge: Judge, settings: LaneSettings, key: str
) -> Generator[Release, None, None]:
    """Read shards in sequence; whenever the buffer is full, release a random half of it as batches.

    The buffer is small at first, so that training starts soon, and doubles with each release up to `shuffle_buffer`.

    Args:
        shards: the lane's shards with their numbers.
        judge: decides what is usable.
        settings: see `LaneSettings`.
        key: seed of the random draws.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big"))
    buffer: list[PlannedUtterance] = []
    full = min(_EARLY, settings.shuffle_buffer)
    release = Release([], 0, [], [])
    for number, shard in shards:
        for index, found in enumerate(_read_whole(shard, settings.retries)):
            release = release._replace(seen=release.seen + 1)
            judged = found if isinstance(found, Skip) else judge.check(found, header_or_problem(found))
            if isinstance(judged, Skip):
                (release.failed if isinstance(found, _Failure) else release.skips).append(judged)
                continue
            buffer.append(PlannedUtterance(*judged, (number, index)))
            if len(buffer) >= full:
                full = min(2 * full, settings.shuffle_buffer)
                batches, buffer = _batches(buffer, settings, rng, is_end=False)
                yield release._replace(batches=batches)
                release = Release([], 0, [], [])
    yield release._replace(batches=_batches(buffer, settings, rng, is_end=True)[0])


def take_turns(lanes: Sequence[Iterator[list[PlannedUtterance]]], start: int) -> Iterator[list[PlannedUtterance]]:
    """Yield a rank's batches, one from each lane in turn; ended lanes give empty batches until all have ended.

    Args:
        lanes: the batches of the rank's lanes; see `Slots.own`.
        start: number of turns to skip.

    >>> list(take_turns([iter([["a"], ["b"]]), iter([["c"]])], start=1))
    [['c'], ['b'], []]
    """
    open_lanes = list(range(len(lanes)))
    for lane, batches in enumerate(lanes):
        for _ in range((start - lane + len(lanes) - 1) // len(lanes)):
            next(batches, None)
    turn = start
    while open_lanes:
        lane = turn % len(lanes)
        batch = next(lanes[lane], None) if lane in open_lanes else []
        if batch is None:
            open_lanes.remove(lane)
        if open_lanes:
            yield batch or []
        turn += 1


class _Failure(Skip):
    """A shard that cannot be read; the reason names it."""


def _read_whole(shard: Shard, retries: int) -> Iterator[Utterance | Skip]:
    try:
        yield from shard.read(retries)
    except (OSError, ValueError) as error:
        yield _Failure(shard.name, str(error))


def _batches(
    buffer: list[PlannedUtterance], settings: LaneSettings, rng: np.random.Generator, is_end: bool
) -> tuple[list[list[PlannedUtterance]], list[PlannedUtterance]]:
    """Cut a random half of a buffer (at the end, all) into batches of similar durations; return batches and rest.

    The last batch is usually short. Its utterances stay in the buffer, unless it is the only batch or the lane ends.
    """
    order = rng.permutation(len(buffer))
    chosen = order if is_end else order[: (len(buffer) + 1) // 2]
    seconds = np.array([planned.utterance.seconds for planned in buffer])
    ascending = chosen[np.argsort(seconds[chosen], kind="stable")]
    direction = 1 - 2 * int(rng.integers(2))
    batches = cut_batches(ascending[::direction], seconds, settings.max_batch_seconds, settings.max_batch_rows)
    if not is_end and len(batches) > 1:
        batches.pop()
    gone = {index for batch in batches for index in batch}
    rest = [planned for index, planned in enumerate(buffer) if index not in gone]
    shuffled = [batches[number] for number in rng.permutation(len(batches))]
    return [[buffer[index] for index in batch] for batch in shuffled], rest
