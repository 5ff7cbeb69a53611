"""Feed-forward branch of an encoder layer: half of a macaron pair (Gulati et al., arXiv 2005.08100).

Shapes: N packed encoder frames, D width. In inference nothing is packed: (N, D) is (B, T, D).
"""

from typing import List, Tuple

import torch
from torch import Tensor, nn

from wenet_fusion.model.layers.activation import build_activation
from wenet_fusion.model.layers.dropout import Dropout
from wenet_fusion.model.layers.layer_protocol import StepContext
from wenet_fusion.model.layers.norm import LinearNorm


class FeedForward(nn.Module):
    """Linear, BatchNorm, activation, linear, BatchNorm, x 0.5: (N, D) -> (N, D). A `LayerOp` without memory.

    Dropout comes after the last norm: before a BatchNorm, it would give training and inference different variances.

    Args:
        dim, hidden: input and output width, and width between the two linear layers.
        dropout: probability, after the last norm.
        gamma: initial scale of the last norm.
        batch_norm: see `LinearNorm`.
        activation: a name in `ACTIVATIONS`.

    >>> FeedForward(dim=4, hidden=16, activation="gelu").activation
    GELU(approximate='none')
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        dropout: float = 0.0,
        gamma: float = 1.0,
        batch_norm: bool = True,
        activation: str = "relu",
    ):
        super().__init__()
        self.expand = LinearNorm(dim, hidden, batch_norm=batch_norm)
        self.activation = build_activation(activation)
        self.reduce = LinearNorm(hidden, dim, gamma=gamma, scale=torch.tensor(0.5), batch_norm=batch_norm)
        self.dropout = Dropout(dropout)

    def init_state(self, batch: int, cached: int, zero: Tensor) -> List[Tensor]:
        """Return an empty state."""
        empty: List[Tensor] = []
        return empty

    def forward(self, x_ND: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return the branch's output and the empty state."""
        return self.dropout(self.reduce(self.activation(self.expand(x_ND)))), state
