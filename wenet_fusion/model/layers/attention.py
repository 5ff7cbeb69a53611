"""Self-attention branch of a block: cached keys and values. Who sees whom, and how far, comes from outside as a bias.

Shapes: B utterances, N packed rows, T queries (frames), S = C + T keys (C cached), H heads, D width, K = D / H.
"""

from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenet_fusion.model.layers.norm import LinearNorm
from wenet_fusion.model.layers.packing import pack, unpack

# A padded query may see nothing, and -inf everywhere would be NaN. exp(-1e4) is 0 in every dtype, float16 holds it.
MASKED = -1e4


class AttentionOutput(NamedTuple):
    y_ND: Tensor
    keys_values: Tensor  # (B, C, 2D)


class CachedAttention(nn.Module):
    """Multi-head self-attention over cached and new frames. (N, D) -> (N, D).

    The cache keeps its length C, whatever comes in: memory per stream is bounded. A fresh cache may have any C,
    because masked zero keys equal absent keys. Keys and values lie side by side in it, so a step moves it once.

    Args:
        dim, heads: D and H; D a multiple of H.
        dropout: after the branch's last norm.
        gamma: initial scale of the branch's last norm.
        normed: see `LinearNorm`.
        products: position products instead of a bias, see `PositionProducts`.
    """

    def __init__(self, dim: int, heads: int, dropout: float, gamma: float, normed: bool = True, products: bool = False):
        super().__init__()
        self.dim, self.heads, self.head_dim = dim, heads, dim // heads
        # 1/sqrt(K) belongs to the queries; as a constant scale it folds into the weights.
        scale = torch.cat([torch.full((dim,), (dim // heads) ** -0.5), torch.ones(2 * dim)])
        self.qkv = LinearNorm(dim, 3 * dim, scale=scale, normed=normed)
        self.out = LinearNorm(dim, dim, gamma=gamma, normed=normed)
        self.products = PositionProducts(dim, heads) if products else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_ND: Tensor,
        valid_N: Optional[Tensor],
        frames: int,
        bias_BHTS: Tensor,
        position_BSD: Optional[Tensor],
        state: Tensor,
    ) -> AttentionOutput:
        """bias_BHTS: added to the scores; may be broadcast. position_BSD: sinusoids of the keys, for products only."""
        qkv_BTC = unpack(self.qkv(x_ND), valid_N, state.size(0), frames)
        # Sizes that are constants at export keep its graphs free of computed shapes.
        query = qkv_BTC.narrow(2, 0, self.dim).unflatten(2, [self.heads, self.head_dim]).transpose(1, 2)
        keys_values = torch.cat([state, qkv_BTC.narrow(2, self.dim, 2 * self.dim)], dim=1)
        split = keys_values.unflatten(2, [2, self.heads, self.head_dim])
        keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        if self.products is not None:
            assert position_BSD is not None
            products = self.products(query, position_BSD)
            query, bias_BHTS = products.query_BHTK, bias_BHTS + products.bias_BHTS
        context = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias_BHTS, scale=1.0)
        context_BTD = context.transpose(1, 2).flatten(2)
        y_ND = self.dropout(self.out(pack(context_BTD, valid_N)))
        return AttentionOutput(y_ND, keys_values[:, frames:])


class ProductsOutput(NamedTuple):
    query_BHTK: Tensor
    bias_BHTS: Tensor


class PositionProducts(nn.Module):
    """Positions as WeNet's Conformer scores them, for comparisons: (query + u) key' + (query + v) position'.

    Dai et al., arXiv 1901.02860, without the relative shift, which WeNet leaves out: positions are those of the keys.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(dim, dim, bias=False)
        self.key_bias = nn.Parameter(torch.zeros(heads, 1, dim // heads))
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, dim // heads))

    def forward(self, query_BHTK: Tensor, position_BSD: Tensor) -> ProductsOutput:
        batch, keys = position_BSD.size(0), position_BSD.size(1)
        position_BHKS = self.project(position_BSD).view(batch, keys, self.heads, -1).permute(0, 2, 3, 1)
        bias_BHTS = torch.matmul(query_BHTK + self.position_bias, position_BHKS)
        return ProductsOutput(query_BHTK + self.key_bias, bias_BHTS)
