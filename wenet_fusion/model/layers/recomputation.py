"""Activation checkpointing: recompute activations in the backward pass (Chen et al., arXiv 1604.06174).

The second forward pass gives the same bits: it draws the same dropout and leaves the BatchNorm statistics unchanged.

Shapes: N packed encoder frames, D width.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, List, Tuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wenet_fusion.model.layers.layer_protocol import StepContext
from wenet_fusion.model.layers.norm import MaskedBatchNorm, norms
from wenet_fusion.model.layers.residual import LayerChain


@contextlib.contextmanager
def _second_pass(layers: Sequence[MaskedBatchNorm]) -> Iterator[None]:
    before = [norm.recomputing for norm in layers]
    for norm in layers:
        norm.recomputing = True
    try:
        yield
    finally:
        for norm, value in zip(layers, before):
            norm.recomputing = value


def _passes(layers: Sequence[MaskedBatchNorm]) -> tuple[Any, Any]:
    return contextlib.nullcontext(), _second_pass(layers)


class RecomputedChain(LayerChain):
    """A `LayerChain` that keeps only its input for the backward pass.

    >>> len(RecomputedChain({}))
    0
    """

    def forward(self, x_ND: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return the last op's output, and the ops' next states."""
        if self.training and torch.is_grad_enabled():
            passes = functools.partial(_passes, norms(self))
            return checkpoint(super().forward, x_ND, state, context, use_reentrant=False, context_fn=passes)
        return super().forward(x_ND, state, context)


def recompute_activations(model: nn.Module) -> None:
    """Change a model in place: training then keeps only the inputs of its encoder layers for the backward pass."""
    for module in list(model.modules()):
        if type(module) is LayerChain:
            module.__class__ = RecomputedChain
