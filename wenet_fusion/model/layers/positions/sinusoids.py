"""Sinusoids of absolute positions, computed on demand for streams of any length (Vaswani et al., arXiv 1706.03762)."""

import math

import torch
from torch import Tensor, nn


class Sinusoids(nn.Module):
    """`sinusoids` as a module: positions (...) -> (..., D).

    Args:
        dim: D, even.

    >>> Sinusoids(4)(torch.tensor([0, 7]), torch.zeros(())).shape
    torch.Size([2, 4])
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, position: Tensor, like: Tensor) -> Tensor:
        """Return `sinusoids` in the dtype and on the device of `like`."""
        return sinusoids(position, self.dim, like)


def sinusoids(position: Tensor, dim: int, like: Tensor) -> Tensor:
    """Return D/2 sines, then D/2 cosines: positions (...) -> (..., D), in the dtype and on the device of `like`."""
    half = dim // 2
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32  # half precision rounds large positions
    rate = torch.exp(torch.arange(half, device=like.device, dtype=dtype) * (-math.log(10000.0) / half))
    angle = position.unsqueeze(-1) * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype)
