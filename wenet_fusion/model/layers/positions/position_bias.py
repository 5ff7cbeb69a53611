"""Learned attention bias for relative positions: needs no matrix product and works for streams of any length.

Shapes: T queries, S keys (the last T belong to the same frames as the queries), L layers, H heads, R largest distance
with its own bias.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PositionBias(nn.Module):
    """A bias per layer, head and relative distance; distances are clipped to [-R, R]: (T, S) -> (L, H, T, S).

    As in T5 (Raffel et al., arXiv 1910.10683) without buckets. One table holds all layers, so a step needs one lookup.

    Args:
        layers, heads: L and H.
        max_distance: R in encoder frames.

    >>> PositionBias(layers=2, heads=4, max_distance=64)(queries=3, keys=8).shape
    torch.Size([2, 4, 3, 8])
    """

    def __init__(self, layers: int, heads: int, max_distance: int):
        super().__init__()
        self.layers, self.heads, self.max_distance = layers, heads, max_distance
        self.table = nn.Parameter(torch.zeros(2 * max_distance + 1, layers * heads))

    def forward(self, queries: int, keys: int) -> Tensor:
        """Return (L, H, T, S). The last query and the last key are the same frame, so T and S give all distances."""
        index_TS = distance_index(queries, keys, self.max_distance, self.table)
        bias = F.embedding(index_TS, self.table).view(queries, keys, self.layers, self.heads)
        return bias.permute(2, 3, 0, 1).contiguous()  # so each layer reads adjacent values


class PrecomputedBias(nn.Module):
    """A `PositionBias` for export: the biases of one-chunk steps are precomputed, all others are looked up.

    Args:
        bias: the learned bias.
        sizes: (T, S) of the steps to precompute.

    >>> bias = PositionBias(layers=1, heads=1, max_distance=4)
    >>> PrecomputedBias(bias, [(2, 6)])(2, 6).shape
    torch.Size([1, 1, 2, 6])
    """

    def __init__(self, bias: PositionBias, sizes: Sequence[tuple[int, int]]):
        super().__init__()
        self.bias = bias
        self.ready = nn.ModuleList(_ReadyBias(bias, queries, keys) for queries, keys in sizes)

    def forward(self, queries: int, keys: int) -> Tensor:
        """Return (L, H, T, S)."""
        for ready in self.ready:
            if ready.queries == queries and ready.keys == keys:
                # mypy takes every attribute of a module for a tensor or a module.
                return ready.bias_LHTS  # type: ignore[return-value]
        return self.bias(queries, keys)


class _ReadyBias(nn.Module):
    bias_LHTS: Tensor

    def __init__(self, bias: PositionBias, queries: int, keys: int):
        super().__init__()
        self.queries, self.keys = queries, keys
        self.register_buffer("bias_LHTS", bias(queries, keys).detach().contiguous(), persistent=False)


def distance_index(queries: int, keys: int, max_distance: int, like: Tensor) -> Tensor:
    """Return the row of the bias table for each query and key: (T, S) int64, on the device of `like`.

    >>> distance_index(queries=1, keys=3, max_distance=1, like=torch.zeros(())).tolist()
    [[0, 0, 1]]
    """
    query = torch.arange(keys - queries, keys, device=like.device).unsqueeze(1)
    key = torch.arange(keys, device=like.device).unsqueeze(0)
    return (key - query).clamp(-max_distance, max_distance) + max_distance
