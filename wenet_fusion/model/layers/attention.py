"""Self-attention branch of an encoder layer, over cached and new frames.

Shapes: B utterances, N packed rows (in inference nothing is packed: (N, D) is (B, T, D)), T queries (frames),
S = C + T keys (C cached), H heads, D width, K = D / H.
"""

from typing import List, Literal, NamedTuple, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenet_fusion.model.layers.dropout import Dropout
from wenet_fusion.model.layers.layer_protocol import StepContext, attention_bias
from wenet_fusion.model.layers.norm import LinearNorm
from wenet_fusion.model.layers.packing import pack, unpack

# Not -inf: a padded query may have no key, and softmax of -inf alone is NaN. float16 holds -1e4; exp(-1e4) is 0.
MASKED = -1e4

# Positions in attention scores. "bias": `PositionBias`, without a matrix product. "rel_pos": `RelativePositions`.
Positions = Literal["bias", "rel_pos"]


class CachedAttention(nn.Module):
    """Multi-head self-attention over cached and new frames: (N, D) -> (N, D). A `LayerOp`.

    The state is the keys and values of the last C frames, (B, C, 2D). C never changes, so memory per stream is
    bounded. A fresh state holds zeros, which are masked, so C does not affect the first step. Keys and values share
    one tensor, so a step copies only one.

    Args:
        dim, heads: D and H; D a multiple of H.
        dropout: probability, after the last norm.
        gamma: initial scale of the last norm.
        batch_norm: see `LinearNorm`.
        positions: see `Positions`.
        layer: index of the encoder layer, to select its bias in `StepContext.biases_HTS`.

    >>> attention = CachedAttention(dim=4, heads=2)
    >>> [tuple(tensor.shape) for tensor in attention.init_state(batch=1, cached=16, zero=torch.zeros(()))]
    [(1, 16, 8)]
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float = 0.0,
        gamma: float = 1.0,
        batch_norm: bool = True,
        positions: Positions = "bias",
        layer: int = 0,
    ):
        super().__init__()
        self.dim, self.heads, self.head_dim, self.layer = dim, heads, dim // heads, layer
        # Queries are scaled by 1/sqrt(K) here: as a constant scale, the factor folds into the weights.
        scale = torch.cat([torch.full((dim,), (dim // heads) ** -0.5), torch.ones(2 * dim)])
        self.qkv = LinearNorm(dim, 3 * dim, scale=scale, batch_norm=batch_norm)
        self.out = LinearNorm(dim, dim, gamma=gamma, batch_norm=batch_norm)
        self.rel_pos = RelativePositions(dim, heads) if positions == "rel_pos" else None
        self.dropout = Dropout(dropout)

    def init_state(self, batch: int, cached: int, zero: Tensor) -> List[Tensor]:
        """Return zeros (B, C, 2D)."""
        return [zero.expand(batch, cached, 2 * self.dim)]

    def forward(self, x_ND: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return the branch's output and the keys and values of the last C frames."""
        bias_BHTS = attention_bias(context, self.layer)
        qkv_BTC = unpack(self.qkv(x_ND), context.valid_N, state[0].size(0), context.frames)
        # These calls take constant sizes, so exported graphs compute no shapes.
        query_BTD, new_BTC = qkv_BTC.split([self.dim, 2 * self.dim], dim=2)
        query = query_BTD.unflatten(2, [self.heads, self.head_dim]).transpose(1, 2)
        keys_values = torch.cat([state[0], new_BTC], dim=1)
        split = keys_values.unflatten(2, [2, self.heads, self.head_dim])
        keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        if self.rel_pos is not None:
            position_BSD = context.position_BSD
            assert position_BSD is not None
            scored = self.rel_pos(query, position_BSD)
            query, bias_BHTS = scored.query_BHTK, bias_BHTS + scored.bias_BHTS
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias_BHTS, scale=1.0)
        attended_BTD = attended.transpose(1, 2).flatten(2)
        return self.dropout(self.out(pack(attended_BTD, context.valid_N))), [keys_values[:, context.frames :]]


class PositionScores(NamedTuple):
    """The queries to multiply with the keys, and the scores of the positions."""

    query_BHTK: Tensor
    bias_BHTS: Tensor


class RelativePositions(nn.Module):
    """The scores of WeNet's Conformer: (query + u) · key + (query + v) · position, with learned u and v.

    As in Dai et al. (arXiv 1901.02860), but without the relative shift: `position` is the key's absolute position.

    Args:
        dim, heads: D and H.

    >>> positions = RelativePositions(dim=4, heads=2)
    >>> positions(torch.zeros(1, 2, 3, 2), torch.zeros(1, 5, 4)).bias_BHTS.shape
    torch.Size([1, 2, 3, 5])
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(dim, dim, bias=False)
        self.key_bias = nn.Parameter(torch.zeros(heads, 1, dim // heads))
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, dim // heads))

    def forward(self, query_BHTK: Tensor, position_BSD: Tensor) -> PositionScores:
        """Return the queries plus u, and the scores of the keys' positions."""
        batch, keys = position_BSD.size(0), position_BSD.size(1)
        position_BHKS = self.project(position_BSD).view(batch, keys, self.heads, -1).permute(0, 2, 3, 1)
        bias_BHTS = torch.matmul(query_BHTK + self.position_bias, position_BHKS)
        return PositionScores(query_BHTK + self.key_bias, bias_BHTS)
