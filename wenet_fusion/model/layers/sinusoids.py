"""Sinusoids of absolute positions, computed on demand so that no stream is too long. Vaswani et al., arXiv 1706.03762."""

import math

import torch
from torch import Tensor


def sinusoids_at(position: Tensor, like_BTD: Tensor) -> Tensor:
    """(...) positions -> (..., D): sines, then cosines, of falling rates, in the width, dtype and device of `like_BTD`."""
    half = like_BTD.size(-1) // 2
    dtype = torch.float64 if like_BTD.dtype == torch.float64 else torch.float32  # half precision cannot count far
    rate = torch.exp(torch.arange(half, device=like_BTD.device, dtype=dtype) * (-math.log(10000.0) / half))
    angle = position.unsqueeze(-1) * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like_BTD.dtype)
