"""Self-attention branch of a block: cached keys and values, relative position bias. Who sees whom comes from outside.

Shapes: B utterances, N packed rows, T queries, S = C + T keys (C cached), H heads, D width, K = D / H, R largest distance told apart.
"""

from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenet_fusion.nn.norm import LinearNorm
from wenet_fusion.nn.packing import pack, unpack


class AttentionOutput(NamedTuple):
    y_ND: Tensor
    keys_BHCK: Tensor
    values_BHCK: Tensor


class CachedAttention(nn.Module):
    """Multi-head self-attention over cached and new frames. (N, D) -> (N, D).

    The cache keeps its length C, whatever comes in: memory per stream is bounded. A fresh cache may have any C,
    because masked zero keys equal absent keys.

    Positions enter as a learned bias per head over the relative distance clipped to +-R, as in T5
    (Raffel et al., arXiv 1910.10683, without its buckets): no matrix product and no limit on the length of a stream.

    Args:
        dim, heads: D and H; D a multiple of H.
        max_distance: R in encoder frames.
        dropout: after the branch's last norm.
        gamma: initial scale of the branch's last norm.
    """

    def __init__(self, dim: int, heads: int, max_distance: int, dropout: float, gamma: float):
        super().__init__()
        self.heads = heads
        # A padded query may see nothing, and -inf everywhere would be NaN. exp(-1e4) is 0 in every dtype, float16 holds it.
        self.masked = -1e4
        # 1/sqrt(K) belongs to the queries; as a constant scale it folds into the weights.
        scale = torch.cat([torch.full((dim,), (dim // heads) ** -0.5), torch.ones(2 * dim)])
        self.qkv = LinearNorm(dim, 3 * dim, scale=scale)
        self.out = LinearNorm(dim, dim, gamma=gamma)
        self.position_bias = nn.Parameter(torch.zeros(2 * max_distance + 1, heads))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_ND: Tensor,
        valid_N: Optional[Tensor],
        visible_BTS: Tensor,
        distance_TS: Tensor,
        keys_BHCK: Tensor,
        values_BHCK: Tensor,
    ) -> AttentionOutput:
        """visible_BTS: true where a query may see a key. distance_TS: rows of `position_bias`, see `distance_index`."""
        batch, frames = visible_BTS.size(0), visible_BTS.size(1)
        qkv_BTC = unpack(self.qkv(x_ND), valid_N, batch, frames)
        qkv = qkv_BTC.view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        keys = torch.cat([keys_BHCK, qkv[1]], dim=2)
        values = torch.cat([values_BHCK, qkv[2]], dim=2)
        bias_HTS = F.embedding(distance_TS, self.position_bias).permute(2, 0, 1)
        scores = torch.matmul(qkv[0], keys.transpose(2, 3)) + bias_HTS
        scores = scores.masked_fill(~visible_BTS.unsqueeze(1), self.masked)
        context = torch.matmul(scores.softmax(dim=-1), values)
        y_ND = self.dropout(self.out(pack(context.transpose(1, 2).flatten(2), valid_N)))
        new = keys.size(2) - keys_BHCK.size(2)
        return AttentionOutput(y_ND, keys[:, :, new:], values[:, :, new:])


def distance_index(queries: int, keys: int, max_distance: int, like: Tensor) -> Tensor:
    """Row of the bias table for each (query, key): (T, S) int64, on the device of `like`.

    The last query and the last key are the same frame, so the index depends on no absolute position.
    """
    query = torch.arange(keys - queries, keys, device=like.device).unsqueeze(1)
    key = torch.arange(keys, device=like.device).unsqueeze(0)
    return (key - query).clamp(-max_distance, max_distance) + max_distance
