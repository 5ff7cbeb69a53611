"""Feed-forward branch of a block (half of a macaron pair). Pointwise, so it has no state."""

import torch
from torch import Tensor, nn

from wenet_fusion.model.layers.norm import LinearNorm


class FeedForward(nn.Module):
    """Linear, norm, ReLU, linear, norm, x 0.5 over packed rows: (N, D) -> (N, D).

    Dropout stands after the branch's last norm: before a BatchNorm it would shift the variance between training and
    inference.

    Args:
        dim, hidden: widths.
        dropout: after the branch's last norm.
        gamma: initial scale of the branch's last norm.
        normed: see `LinearNorm`.
        swish: Swish instead of ReLU, for comparisons.
    """

    def __init__(self, dim: int, hidden: int, dropout: float, gamma: float, normed: bool = True, swish: bool = False):
        super().__init__()
        self.expand = LinearNorm(dim, hidden, normed=normed)
        self.activation = activation(swish)
        self.reduce = LinearNorm(hidden, dim, gamma=gamma, scale=torch.tensor(0.5), normed=normed)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.dropout(self.reduce(self.activation(self.expand(x_ND))))


def activation(swish: bool) -> nn.Module:
    """ReLU, which is what a FusionFormer has, or the Conformer's Swish."""
    return nn.SiLU() if swish else nn.ReLU()
