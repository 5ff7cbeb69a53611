"""Contexts for tests that run one op alone, in inference."""

from collections.abc import Sequence

import torch
from support.model import laws
from torch import Tensor, nn

from wenet_fusion.model.layers.layer_protocol import StepContext


def step_context(
    frames: int,
    hidden_B1TS: Tensor | None = None,
    biases_HTS: Sequence[Tensor] = (),
    position_BSD: Tensor | None = None,
) -> StepContext:
    """Return the context of one step, without packed rows; by default every key is visible."""
    hidden = torch.zeros(1, 1, 1, 1) if hidden_B1TS is None else hidden_B1TS
    return StepContext(frames, None, None, hidden, list(biases_HTS), position_BSD)


def layer_op(model: nn.Module, stride: int = 1) -> laws.Op:
    """Return a `LayerOp` in the form that laws.py expects."""

    def op(x: Tensor, lengths: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return model(x, state, step_context(x.size(1) // stride))

    return op
