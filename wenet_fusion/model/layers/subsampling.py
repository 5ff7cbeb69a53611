"""Causal 4x subsampling by two strided convolutions, with state.

Shapes: B utterances, T feature frames (T/4 encoder frames), N packed encoder frames, F mel bins, D width, C channels.
"""

from typing import List, Tuple

import torch
from torch import Tensor, nn

from wenet_fusion.model.layers.layer_protocol import StepContext
from wenet_fusion.model.layers.norm import ConvNorm, LinearNorm
from wenet_fusion.model.layers.packing import unpack

FACTOR = 4
KERNEL = 3
STRIDE = 2


class Subsampling(nn.Module):
    """Map features to frames at a quarter of the rate: (B, T, F) -> (N, D), (B, T/4, D) in inference. A `LayerOp`.

    The state holds the last kernel - stride = 1 input frame of each convolution: (B, 1, 1, F) and (B, C, 1, F'); F' is
    the number of bins after the first one. The second one reads values after norm and ReLU, so the zeros of a fresh
    state are zero padding, with fused norms, too.

    Args:
        num_mel_bins: F.
        dim: D.
        channels: C, output channels of both convolutions.
        batch_norm: see `LinearNorm`.

    Raises:
        ValueError: num_mel_bins is below 7.

    >>> subsampling = Subsampling(num_mel_bins=80, dim=16, channels=4)
    >>> [tuple(tensor.shape) for tensor in subsampling.init_state(batch=1, cached=0, zero=torch.zeros(()))]
    [(1, 1, 1, 80), (1, 4, 1, 39)]
    """

    def __init__(self, num_mel_bins: int, dim: int, channels: int, batch_norm: bool = True):
        super().__init__()
        bins_1 = (num_mel_bins - KERNEL) // STRIDE + 1
        bins_2 = (bins_1 - KERNEL) // STRIDE + 1
        if bins_2 < 1:
            raise ValueError(f"num_mel_bins {num_mel_bins} is too small to be subsampled twice: use 7 or more")
        self.stride, self.context = STRIDE, KERNEL - STRIDE  # TorchScript reads no module constants
        self.state_sizes = [(1, num_mel_bins), (channels, bins_1)]
        conv_1 = nn.Conv2d(1, channels, KERNEL, STRIDE, bias=not batch_norm)
        conv_2 = nn.Conv2d(channels, channels, KERNEL, STRIDE, bias=not batch_norm)
        self.conv_1, self.conv_2 = ConvNorm(conv_1, batch_norm), ConvNorm(conv_2, batch_norm)
        self.out = LinearNorm(channels * bins_2, dim, batch_norm=batch_norm)

    def init_state(self, batch: int, cached: int, zero: Tensor) -> List[Tensor]:
        """Return zeros (B, 1, 1, F) and (B, C, 1, F')."""
        return [zero.expand(batch, channels, self.context, bins) for channels, bins in self.state_sizes]

    def forward(self, x_BTF: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return T/4 frames, packed in training, and the last input frame of each convolution; T is a multiple of 4."""
        x_1 = torch.cat([state[0], x_BTF.unsqueeze(1)], dim=2)
        h_1 = torch.relu(self.conv_1(x_1, context.valid_half_N))
        h_1_BTCF = unpack(h_1, context.valid_half_N, x_BTF.size(0), x_BTF.size(1) // self.stride)
        x_2 = torch.cat([state[1], h_1_BTCF.transpose(1, 2)], dim=2)
        h_2 = torch.relu(self.conv_2(x_2, context.valid_N))
        new_1, new_2 = x_1.size(2) - self.context, x_2.size(2) - self.context
        return self.out(h_2.flatten(-2)), [x_1[:, :, new_1:], x_2[:, :, new_2:]]
