"""Feed-forward branch of a block (half of a macaron pair). Pointwise, so it has no state."""

import torch
from torch import Tensor, nn

from wenet_fusion.nn.norm import LinearNorm


class FeedForward(nn.Module):
    """Linear, norm, ReLU, linear, norm, x 0.5 over packed rows: (N, D) -> (N, D).

    Dropout stands after the branch's last norm: before a BatchNorm it would shift the variance between training and
    inference.
    """

    def __init__(self, dim: int, hidden: int, dropout: float, gamma: float):
        super().__init__()
        self.expand = LinearNorm(dim, hidden)
        self.reduce = LinearNorm(hidden, dim, gamma=gamma, scale=torch.tensor(0.5))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.dropout(self.reduce(torch.relu(self.expand(x_ND))))
