"""Which utterances share a batch in one epoch; knows only their durations, no audio and no text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Batches' worth of utterances that are sorted together: more means less padding and less randomness.
_POOL_BATCHES = 50


def epoch_batches(
    seconds: Sequence[float], max_batch_seconds: float, max_batch_rows: int, seed: int, epoch: int
) -> list[list[int]]:
    """Every index of `seconds` exactly once, in batches of similar durations and random order.

    A batch's size is what it occupies after padding, rows * longest <= `max_batch_seconds`, and `max_batch_rows`;
    an utterance longer than the limit gets a batch of its own. A pure function: the same arguments, the same plan.
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
    # Every other pool falls instead of rises, so neighbours are alike across pools too and only the last batch is cut.
    orders = [pool[np.argsort(durations[pool], kind="stable")[:: 1 - 2 * (n % 2)]] for n, pool in enumerate(pools)]
    batches: list[list[int]] = []
    longest = 0.0
    for index in np.concatenate(orders).tolist():
        longest = max(longest, durations[index])
        fits = batches and len(batches[-1]) < max_batch_rows and (len(batches[-1]) + 1) * longest <= max_batch_seconds
        if fits:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = durations[index]
    return [batches[number] for number in rng.permutation(len(batches))]


def padding_fraction(seconds: Sequence[float], batches: Sequence[Sequence[int]]) -> float:
    """The part of all padded batches that is padding, between 0 and 1."""
    padded = sum(len(batch) * max(seconds[index] for index in batch) for batch in batches)
    return 1.0 - sum(seconds[index] for batch in batches for index in batch) / padded if padded else 0.0
