"""Convolution branch of an encoder layer: causal and depthwise, with state (Gulati et al., arXiv 2005.08100).

Shapes: B utterances, T frames, N packed rows (in inference, (N, D) is (B, T, D)), D width, W = kernel - 1 past frames.
"""

from typing import List, Literal, Tuple

import torch
from torch import Tensor, nn

from wenet_fusion.model.layers.activation import build_activation
from wenet_fusion.model.layers.dropout import Dropout
from wenet_fusion.model.layers.layer_protocol import StepContext
from wenet_fusion.model.layers.norm import ConvNorm, LinearNorm, NormKind, branch_norm
from wenet_fusion.model.layers.packing import unpack

# The op after the first pointwise layer. "none": a ReLU, which keeps the width D. "glu": the Conformer's gate, 2D -> D.
ConvGate = Literal["none", "glu"]


class CausalConvolution(nn.Module):
    """Pointwise, gate, causal depthwise, activation, pointwise: (N, D) -> (N, D). A `LayerOp`.

    The state is the last W inputs of the depthwise convolution, (B, W, D): zeros before the first frame, in training,
    streaming and export alike.

    Args:
        dim, kernel: D, and the kernel size W + 1.
        dropout: probability, after the last norm.
        gamma: initial scale of the last norm.
        norm: "fusion": a BatchNorm after each layer; "layer", "batch": a LayerNorm or BatchNorm before the activation.
        activation: a name in `ACTIVATIONS`; applied after the depthwise convolution.
        gate: see `ConvGate`.

    >>> branch = CausalConvolution(dim=4, kernel=8)
    >>> [tuple(tensor.shape) for tensor in branch.init_state(batch=1, cached=0, zero=torch.zeros(()))]
    [(1, 7, 4)]
    """

    def __init__(
        self,
        dim: int,
        kernel: int,
        dropout: float = 0.0,
        gamma: float = 1.0,
        norm: NormKind = "fusion",
        activation: str = "relu",
        gate: ConvGate = "none",
    ):
        super().__init__()
        self.dim, self.context = dim, kernel - 1
        batch_norm, gated = norm == "fusion", gate == "glu"
        self.pointwise_in = LinearNorm(dim, 2 * dim if gated else dim, batch_norm=batch_norm)
        self.gate = nn.GLU(dim=-1) if gated else nn.ReLU()
        conv = nn.Conv1d(dim, dim, kernel, groups=dim, bias=not batch_norm)
        self.depthwise = ConvNorm(conv, batch_norm=batch_norm)
        self.norm = branch_norm(norm, dim)
        self.activation = build_activation(activation)
        self.pointwise_out = LinearNorm(dim, dim, gamma=gamma, batch_norm=batch_norm)
        self.dropout = Dropout(dropout)

    def init_state(self, batch: int, cached: int, zero: Tensor) -> List[Tensor]:
        """Return zeros (B, W, D)."""
        return [zero.expand(batch, self.context, self.dim)]

    def forward(self, x_ND: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return the branch's output and the last W inputs of the depthwise convolution."""
        h_ND = self.gate(self.pointwise_in(x_ND))
        h_BTD = unpack(h_ND, context.valid_N, state[0].size(0), context.frames)
        h_BTD = torch.cat([state[0], h_BTD], dim=1)
        h_ND = self.activation(self.norm(self.depthwise(h_BTD.transpose(1, 2), context.valid_N)))
        return self.dropout(self.pointwise_out(h_ND)), [h_BTD[:, context.frames :]]
