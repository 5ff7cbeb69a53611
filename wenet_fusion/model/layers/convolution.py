"""Convolution branch of a block: causal and depthwise, with state. Knows nothing of chunks.

Shapes: B utterances, T frames, N packed rows, D width, W = kernel - 1 frames of context.
"""

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from wenet_fusion.model.layers.feed_forward import activation
from wenet_fusion.model.layers.norm import ConvNorm, LinearNorm, NormKind, branch_norm
from wenet_fusion.model.layers.packing import unpack


class ConvolutionOutput(NamedTuple):
    y_ND: Tensor
    state_BWD: Tensor


class CausalConvolution(nn.Module):
    """Pointwise, ReLU, causal depthwise, ReLU, pointwise; a norm after each. (N, D) -> (N, D).

    ReLU stands where the Conformer has GLU, so the width stays D. The state is what the depthwise convolution saw
    last: zeros mean "nothing before", in training, streaming and export alike.

    Args:
        dim, kernel: D and W + 1.
        dropout: after the branch's last norm.
        gamma: initial scale of the branch's last norm.
        norm: where the norms stand; any but "fusion" is for comparisons.
        swish, gated: Swish instead of the second ReLU, GLU instead of the first, for comparisons.
    """

    def __init__(
        self,
        dim: int,
        kernel: int,
        dropout: float,
        gamma: float,
        norm: NormKind = "fusion",
        swish: bool = False,
        gated: bool = False,
    ):
        super().__init__()
        normed = norm == "fusion"
        self.pointwise_in = LinearNorm(dim, 2 * dim if gated else dim, normed=normed)
        self.gate = nn.GLU(dim=-1) if gated else nn.ReLU()
        self.depthwise = ConvNorm(nn.Conv1d(dim, dim, kernel, groups=dim, bias=not normed), normed=normed)
        self.norm = branch_norm(norm, dim)
        self.activation = activation(swish)
        self.pointwise_out = LinearNorm(dim, dim, gamma=gamma, normed=normed)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_ND: Tensor, valid_N: Optional[Tensor], frames: int, state_BWD: Tensor) -> ConvolutionOutput:
        h_ND = self.gate(self.pointwise_in(x_ND))
        context_BTD = torch.cat([state_BWD, unpack(h_ND, valid_N, state_BWD.size(0), frames)], dim=1)
        h_ND = self.activation(self.norm(self.depthwise(context_BTD.transpose(1, 2), valid_N)))
        y_ND = self.dropout(self.pointwise_out(h_ND))
        return ConvolutionOutput(y_ND, context_BTD[:, frames:])
