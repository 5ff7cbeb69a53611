"""Batches of waveforms and token ids, padded with zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


class Batch(NamedTuple):
    """B utterances, padded with zeros to N samples and U tokens."""

    keys: tuple[str, ...]
    samples_BN: torch.Tensor  # float32 in [-1, 1]
    sample_lengths_B: torch.Tensor  # int64, the model's right padding included
    tokens_BU: torch.Tensor  # int64
    token_lengths_B: torch.Tensor  # int64


class Row(NamedTuple):
    """One utterance of a batch, without padding.

    >>> batch = pad_rows([Row("u1", np.ones(3, np.float32), [4, 5]), Row("u2", np.ones(1, np.float32), [])], 2)
    >>> batch.samples_BN.tolist(), batch.sample_lengths_B.tolist()
    ([[1.0, 1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]], [5, 3])
    """

    key: str
    samples: np.ndarray  # (N,) float32
    tokens: Sequence[int]


def pad_rows(rows: Sequence[Row], right_padding: int) -> Batch:
    """Return rows as a batch, with `right_padding` zeros after the samples of each row; no rows: an empty batch."""
    lengths = [row.samples.size + right_padding for row in rows]
    samples_BN = torch.zeros(len(rows), max(lengths, default=0))
    tokens_BU = torch.zeros(len(rows), max((len(row.tokens) for row in rows), default=0), dtype=torch.int64)
    for b, row in enumerate(rows):
        samples_BN[b, : row.samples.size] = torch.from_numpy(row.samples)
        tokens_BU[b, : len(row.tokens)] = torch.tensor(row.tokens, dtype=torch.int64)
    token_lengths = torch.tensor([len(row.tokens) for row in rows], dtype=torch.int64)
    lengths_B = torch.tensor(lengths, dtype=torch.int64)
    return Batch(tuple(row.key for row in rows), samples_BN, lengths_B, tokens_BU, token_lengths)


def split_rows(batch: Batch, right_padding: int) -> list[Row]:
    """Return the rows of a batch: the inverse of `pad_rows`.

    >>> batch = pad_rows([Row("u1", np.ones(3, np.float32), [4, 5]), Row("u2", np.ones(1, np.float32), [])], 2)
    >>> split_rows(batch, 2)[1]
    Row(key='u2', samples=array([1.], dtype=float32), tokens=[])
    """
    lengths = zip(batch.sample_lengths_B.tolist(), batch.token_lengths_B.tolist())
    return [
        Row(key, batch.samples_BN[b, : length - right_padding].numpy(), batch.tokens_BU[b, :count].tolist())
        for b, (key, (length, count)) in enumerate(zip(batch.keys, lengths))
    ]
