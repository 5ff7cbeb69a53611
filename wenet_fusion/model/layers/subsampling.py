"""Causal 4x subsampling by two strided convolutions, with state. Knows nothing of chunks.

Shapes: B utterances, T feature frames (T/4 encoder frames), N packed encoder frames, F mel bins, D width, C channels.
"""

from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from wenet_fusion.model.layers.norm import ConvNorm, LinearNorm
from wenet_fusion.model.layers.packing import unpack

FACTOR = 4
KERNEL = 3
STRIDE = 2


class SubsamplingOutput(NamedTuple):
    frames_ND: Tensor
    state: List[Tensor]


class Subsampling(nn.Module):
    """(B, T, F) -> packed (N, D). Context in time is window - stride = 1 frame per convolution, zeros at the start.

    The state is what each convolution saw last, after the norm and ReLU before it, where zero truly is "nothing before".

    Raises:
        ValueError: if too few mel bins are left for a convolution.
    """

    def __init__(self, num_mel_bins: int, dim: int, channels: int, normed: bool = True):
        super().__init__()
        bins_1 = (num_mel_bins - KERNEL) // STRIDE + 1
        bins_2 = (bins_1 - KERNEL) // STRIDE + 1
        if bins_2 < 1:
            raise ValueError(f"num_mel_bins {num_mel_bins} is too small to be subsampled twice: use 7 or more")
        self.stride, self.context = STRIDE, KERNEL - STRIDE  # scripts read attributes, not module constants
        self.state_sizes = [(1, num_mel_bins), (channels, bins_1)]
        self.conv_1 = ConvNorm(nn.Conv2d(1, channels, KERNEL, STRIDE, bias=not normed), normed)
        self.conv_2 = ConvNorm(nn.Conv2d(channels, channels, KERNEL, STRIDE, bias=not normed), normed)
        self.out = LinearNorm(channels * bins_2, dim, normed=normed)

    def init_state(self, batch: int, like: Tensor) -> List[Tensor]:
        """Zeros of the dtype and device of `like`."""
        return subsampling_zeros(batch, self.state_sizes, self.context, like)

    def forward(
        self, x_BTF: Tensor, valid_half_N: Optional[Tensor], valid_N: Optional[Tensor], state: List[Tensor]
    ) -> SubsamplingOutput:
        """x_BTF: T a multiple of 4. valid_half_N, valid_N: valid frames after one and after both convolutions."""
        x_1 = torch.cat([state[0], x_BTF.unsqueeze(1)], dim=2)
        h_1 = torch.relu(self.conv_1(x_1, valid_half_N))
        h_1_BTCF = unpack(h_1, valid_half_N, x_BTF.size(0), x_BTF.size(1) // self.stride)
        x_2 = torch.cat([state[1], h_1_BTCF.transpose(1, 2)], dim=2)
        h_2 = torch.relu(self.conv_2(x_2, valid_N))
        new_1, new_2 = x_1.size(2) - self.context, x_2.size(2) - self.context
        return SubsamplingOutput(self.out(h_2.flatten(-2)), [x_1[:, :, new_1:], x_2[:, :, new_2:]])


def subsampling_zeros(batch: int, sizes: List[Tuple[int, int]], context: int, like: Tensor) -> List[Tensor]:
    """The state before the first frame: (B, C, context, F) for each (C, F) of `sizes`."""
    return [
        torch.zeros(batch, channels, context, bins, dtype=like.dtype, device=like.device) for channels, bins in sizes
    ]
