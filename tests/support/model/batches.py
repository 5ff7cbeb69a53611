"""Batches of noise."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from wenet_fusion.data.batch import Batch


def random_batch(rng: np.random.Generator, rows: int) -> Batch:
    """A batch of noise with random lengths and random tokens."""
    lengths = rng.integers(3000, 20_000, rows)
    counts = rng.integers(0, 6, rows)
    samples, tokens = torch.zeros(rows, lengths.max()), torch.zeros(rows, max(counts.max(), 1), dtype=torch.int64)
    for row in range(rows):
        samples[row, : lengths[row]] = torch.from_numpy(0.1 * rng.standard_normal(lengths[row]))
        tokens[row, : counts[row]] = torch.from_numpy(rng.integers(3, 12, counts[row]))
    keys = tuple(str(key) for key in rng.integers(0, 10**9, rows))
    return Batch(keys, samples.double(), torch.tensor(lengths), tokens, torch.tensor(counts))


def joined(batches: list[Batch]) -> Batch:
    """The rows of several batches as one, padded to the longest."""

    def stacked(name: str) -> torch.Tensor:
        parts = [getattr(batch, name) for batch in batches]
        longest = max(part.size(1) for part in parts)
        return torch.cat([torch.nn.functional.pad(part, (0, longest - part.size(1))) for part in parts])

    keys = tuple(itertools.chain.from_iterable(batch.keys for batch in batches))
    lengths, counts = (torch.cat([getattr(batch, name) for batch in batches]) for name in Batch._fields[2::2])
    return Batch(keys, stacked("samples_BN"), lengths, stacked("tokens_BU"), counts)
