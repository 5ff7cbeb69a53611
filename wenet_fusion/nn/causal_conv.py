"""Convolution branch of a block: causal and depthwise, with state. Knows nothing of chunks.

Shapes: B utterances, T frames, N packed rows, D width, W = kernel - 1 frames of context.
"""

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from wenet_fusion.nn.norm import ConvNorm, LinearNorm
from wenet_fusion.nn.packing import unpack


class ConvolutionOutput(NamedTuple):
    y_ND: Tensor
    state_BDW: Tensor


class CausalConvolution(nn.Module):
    """Pointwise, ReLU, causal depthwise, ReLU, pointwise; a norm after each. (N, D) -> (N, D).

    ReLU stands where the Conformer has GLU, so the width stays D. The state is what the depthwise convolution saw
    last: zeros mean "nothing before", in training, streaming and export alike.
    """

    def __init__(self, dim: int, kernel: int, dropout: float, gamma: float):
        super().__init__()
        self.pointwise_in = LinearNorm(dim, dim)
        self.depthwise = ConvNorm(nn.Conv1d(dim, dim, kernel, groups=dim, bias=False))
        self.pointwise_out = LinearNorm(dim, dim, gamma=gamma)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_ND: Tensor, valid_N: Optional[Tensor], frames: int, state_BDW: Tensor) -> ConvolutionOutput:
        h_BTD = unpack(torch.relu(self.pointwise_in(x_ND)), valid_N, state_BDW.size(0), frames)
        context_BDT = torch.cat([state_BDW, h_BTD.transpose(1, 2)], dim=2)
        h_ND = torch.relu(self.depthwise(context_BDT, valid_N))
        y_ND = self.dropout(self.pointwise_out(h_ND))
        return ConvolutionOutput(y_ND, context_BDT[:, :, context_BDT.size(2) - state_BDW.size(2) :])
