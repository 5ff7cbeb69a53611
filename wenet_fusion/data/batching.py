"""Plan the batches of an epoch from the durations of the utterances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Utterances are sorted in pools of this many batches: larger pools mean less padding and less randomness.
_POOL_BATCHES = 50


def epoch_batches(
    seconds: Sequence[float] | np.ndarray, max_batch_seconds: float, max_batch_rows: int, seed: int, epoch: int
) -> list[list[int]]:
    """Plan batches of utterances of similar duration, in random order; each utterance is in exactly one batch.

    The same arguments always give the same plan.

    Args:
        seconds: duration of each utterance.
        max_batch_seconds: largest padded size of a batch, rows * longest utterance. A longer utterance gets a batch of
            its own.
        max_batch_rows: largest number of utterances in a batch.
        seed, epoch: seeds of the random order.

    Returns:
        The indices of each batch's utterances.

    Raises:
        ValueError: a limit is not positive.

    >>> plan = epoch_batches([1.0, 2.0, 1.1, 2.1], max_batch_seconds=4.5, max_batch_rows=8, seed=0, epoch=0)
    >>> sorted(sorted(batch) for batch in plan)
    [[0, 2], [1, 3]]
    """
    durations = np.asarray(seconds, dtype=np.float64)
    if not max_batch_seconds > 0 or max_batch_rows < 1:
        raise ValueError(
            f"max_batch_seconds ({max_batch_seconds}) must be positive and max_batch_rows ({max_batch_rows}) at least 1"
        )
    if durations.size == 0:
        return []
    rng = np.random.default_rng([seed, epoch])
    rows = min(max_batch_rows, max(1.0, max_batch_seconds / max(durations.mean(), 1e-9)))
    pools = np.array_split(rng.permutation(durations.size), max(1, round(durations.size / (rows * _POOL_BATCHES))))
    # Pools ascend and descend in turn: a batch that spans two pools also holds utterances of similar duration.
    orders = [pool[np.argsort(durations[pool], kind="stable")[:: 1 - 2 * (n % 2)]] for n, pool in enumerate(pools)]
    batches = cut_batches(np.concatenate(orders), durations, max_batch_seconds, max_batch_rows)
    return [batches[number] for number in rng.permutation(len(batches))]


def cut_batches(
    order: np.ndarray, durations: np.ndarray, max_batch_seconds: float, max_batch_rows: int
) -> list[list[int]]:
    """Cut utterances, in a given order, into batches as large as the limits of `epoch_batches` allow.

    >>> cut_batches(np.array([2, 0, 1]), np.array([1.0, 2.0, 1.0]), max_batch_seconds=2.5, max_batch_rows=8)
    [[2, 0], [1]]
    """
    batches: list[list[int]] = []
    longest = 0.0
    for index, duration in zip(order.tolist(), durations[order].tolist()):
        longest = max(longest, duration)
        fits = batches and len(batches[-1]) < max_batch_rows and (len(batches[-1]) + 1) * longest <= max_batch_seconds
        if fits:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = duration
    return batches


def rank_batches(plan: Sequence[Sequence[int]], rank: int, world: int) -> list[list[int]]:
    """Return the batches of one rank: each step takes `world` batches of the plan, one for each rank.

    All ranks get the same number of batches. If fewer batches than ranks remain for the last step, all ranks share the
    utterances of these batches; if there are fewer utterances than ranks, they are left out.

    Args:
        plan: see `epoch_batches`.
        rank, world: number of this rank, and number of ranks.

    >>> [rank_batches([[1, 2], [3], [4, 5, 6]], rank, world=2) for rank in (0, 1)]
    [[[1, 2], [4, 6]], [[3], [5]]]
    """
    whole = len(plan) - len(plan) % world
    batches = [list(batch) for batch in plan[rank:whole:world]]
    rest = [index for batch in plan[whole:] for index in batch]
    return [*batches, rest[rank::world]] if len(rest) >= world else batches


class BatchSize(NamedTuple):
    """The size of a batch, padding included."""

    rows: int
    seconds: float  # duration of the longest utterance
    tokens: int  # length of the longest transcript
    stretch: float = 1.0  # largest factor by which speed changes and right padding lengthen the longest utterance


def largest_batches(
    plan: Sequence[Sequence[int]],
    seconds: Sequence[float] | np.ndarray,
    tokens: Sequence[int] | np.ndarray,
    slowest: float = 1.0,
    padding: float = 0.0,
) -> tuple[BatchSize, ...]:
    """Return the sizes of the batches that need the most memory in the encoder's attention and in the decoders' output.

    Args:
        plan: indices of each batch's utterances.
        seconds, tokens: duration and number of tokens of each utterance.
        slowest: smallest speed factor of the augmentation.
        padding: right padding of each utterance, seconds.

    >>> found = largest_batches([[0, 1], [2]], seconds=[1.0, 2.0, 9.0], tokens=[50, 40, 3])
    >>> [(size.rows, size.seconds, size.tokens) for size in found]
    [(1, 9.0, 3), (2, 2.0, 50)]
    """
    if not plan:
        return ()
    rows = np.array([len(batch) for batch in plan])
    order, starts = np.concatenate(plan), np.cumsum(rows) - rows
    longest = np.maximum.reduceat(np.asarray(seconds)[order], starts)
    widest = np.maximum.reduceat(np.asarray(tokens)[order], starts)
    found = dict.fromkeys([int((rows * longest**2).argmax()), int((rows * widest).argmax())])
    return tuple(
        BatchSize(int(rows[n]), float(longest[n]), int(widest[n]), float(1 / slowest + padding / longest[n]))
        for n in found
    )


def padding_fraction(seconds: Sequence[float] | np.ndarray, batches: Sequence[Sequence[int]]) -> float:
    """Return the share of padding in all batches, between 0 and 1.

    >>> padding_fraction([1.0, 3.0], [[0, 1]])
    0.33333333333333337
    """
    padded = sum(len(batch) * max(seconds[index] for index in batch) for batch in batches)
    return 1.0 - sum(seconds[index] for batch in batches for index in batch) / padded if padded else 0.0
