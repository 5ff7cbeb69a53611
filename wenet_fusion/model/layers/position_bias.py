"""Relative positions of self-attention as a learned bias: no matrix product, no limit on the length of a stream.

Shapes: T queries, S keys, the last of which are the queries' own frames, L layers, H heads, R largest distance told apart.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PositionBias(nn.Module):
    """A bias for each layer and head over the relative distance clipped to +-R, as in T5.

    Raffel et al., arXiv 1910.10683, without its buckets. All layers' tables are one, so that a step looks them up once.

    Args:
        layers, heads: L and H.
        max_distance: R in encoder frames.
    """

    def __init__(self, layers: int, heads: int, max_distance: int):
        super().__init__()
        self.layers, self.heads, self.max_distance = layers, heads, max_distance
        self.table = nn.Parameter(torch.zeros(2 * max_distance + 1, layers * heads))

    def forward(self, queries: int, keys: int) -> Tensor:
        """(L, H, T, S). The last query and the last key are the same frame, so no absolute position is needed."""
        index_TS = distance_index(queries, keys, self.max_distance, self.table)
        bias = F.embedding(index_TS, self.table).view(queries, keys, self.layers, self.heads)
        return bias.permute(2, 3, 0, 1)


class PrecomputedBias(nn.Module):
    """What `PositionBias` becomes at export: the biases of steps of one chunk lie ready, all others are looked up.

    Args:
        bias: the learned one.
        sizes: (T, S) of the steps to prepare.
    """

    def __init__(self, bias: PositionBias, sizes: Sequence[tuple[int, int]]):
        super().__init__()
        self.bias = bias
        self.ready = nn.ModuleList(_ReadyBias(bias, queries, keys) for queries, keys in sizes)

    def forward(self, queries: int, keys: int) -> Tensor:
        for ready in self.ready:
            if ready.queries == queries and ready.keys == keys:
                return ready.bias_LHTS
        return self.bias(queries, keys)


class _ReadyBias(nn.Module):
    def __init__(self, bias: PositionBias, queries: int, keys: int):
        super().__init__()
        self.queries, self.keys = queries, keys
        self.register_buffer("bias_LHTS", bias(queries, keys).detach().contiguous(), persistent=False)


def distance_index(queries: int, keys: int, max_distance: int, like: Tensor) -> Tensor:
    """Row of the bias table for each (query, key): (T, S) int64, on the device of `like`."""
    query = torch.arange(keys - queries, keys, device=like.device).unsqueeze(1)
    key = torch.arange(keys, device=like.device).unsqueeze(0)
    return (key - query).clamp(-max_distance, max_distance) + max_distance
