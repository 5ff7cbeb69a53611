"""Compute activations again in the backward pass instead of keeping them (Chen et al., arXiv 1604.06174).

The second forward pass gives the same bits: it draws the same dropout, and BatchNorm moves no statistic.

Shapes: N packed encoder frames, D width.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, List, Tuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wenet_fusion.model.layers.feed_forward import FeedForward
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


def recomputed(
    function: Callable[..., Any], layers: Sequence[MaskedBatchNorm], *inputs: Any, draws: bool = False
) -> Any:
    """Call a function, and again in the backward pass, up to the last tensor that the gradient needs.

    Args:
        function: part of a model.
        layers: the BatchNorms in it.
        inputs: its arguments; only these stay in memory.
        draws: it draws random numbers.
    """
    passes = functools.partial(_passes, layers)
    return checkpoint(function, *inputs, use_reentrant=False, context_fn=passes, preserve_rng_state=draws)


class RecomputedChain(LayerChain):
    """A `LayerChain` that keeps only its input for the backward pass.

    >>> len(RecomputedChain({}))
    0
    """

    def forward(self, x_ND: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return the last op's output, and the ops' next states."""
        if self.training and torch.is_grad_enabled():
            return recomputed(super().forward, norms(self), x_ND, state, context, draws=True)
        return super().forward(x_ND, state, context)


class RecomputedFeedForward(FeedForward):
    """A `FeedForward` that keeps one of its two hidden activations for the backward pass: the one before the norm.

    >>> RecomputedFeedForward(dim=4, hidden=8).activation
    ReLU()
    """

    def forward(self, x_ND: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return the branch's output and the empty state."""
        norm = self.expand.norm
        if norm is None or not self.training:
            return super().forward(x_ND, state, context)

        def reduced(hidden_NC: Tensor) -> Tensor:
            return self.reduce.linear(self.activation(self.expand.normed(hidden_NC)))

        return self.dropout(self.reduce.normed(recomputed(reduced, [norm], self.expand.linear(x_ND)))), state


def recompute_activations(model: nn.Module, whole_layers: bool) -> None:
    """Make training keep fewer activations: one hidden one of each feed-forward branch instead of two.

    Args:
        model: changed in place; it keeps its parameters.
        whole_layers: keep only the inputs of encoder layers, which takes about a third more time.
    """
    for module in list(model.modules()):
        if type(module) is FeedForward:
            module.__class__ = RecomputedFeedForward
        if type(module) is LayerChain and whole_layers:
            module.__class__ = RecomputedChain
