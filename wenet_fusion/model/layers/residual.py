"""Encoder layers as chains of residual branches. An encoder layer type is a list of branches: see `conformer.py`.

Shapes: N packed encoder frames, D width. In inference nothing is packed: (N, D) is (B, T, D).
"""

from collections.abc import Mapping
from typing import List, Tuple

import torch
from torch import Tensor, nn

from wenet_fusion.model.layers.layer_protocol import StepContext


class Residual(nn.Module):
    """A residual branch: x + op(norm(x)). Obeys `LayerOp`; its state is the op's.

    Args:
        op: any `LayerOp`.
        norm: the norm before the op; None: no norm here, as in a FusionFormer, whose norms are inside the ops.

    >>> from wenet_fusion.model.layers.feed_forward import FeedForward
    >>> branch = Residual(FeedForward(dim=4, hidden=8))
    >>> [name for name, _ in branch.named_children()]
    ['norm', 'op']
    """

    def __init__(self, op: nn.Module, norm: nn.Module | None = None):
        super().__init__()
        self.norm = nn.Identity() if norm is None else norm
        self.op = op

    def init_state(self, batch: int, cached: int, zero: Tensor) -> List[Tensor]:
        """Return the op's state before the first frame."""
        # mypy takes every attribute of a module for a tensor.
        return self.op.init_state(batch, cached, zero)  # type: ignore[operator]

    def forward(self, x_ND: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return x plus the op's output, and the op's next state."""
        y_ND, new = self.op(self.norm(x_ND), state, context)
        return x_ND + y_ND, new


class Pointwise(nn.Module):
    """Makes a `LayerOp` from a module without memory, such as a norm.

    >>> Pointwise(nn.LayerNorm(4)).init_state(batch=1, cached=0, zero=torch.zeros(()))
    []
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def init_state(self, batch: int, cached: int, zero: Tensor) -> List[Tensor]:
        """Return an empty state."""
        empty: List[Tensor] = []
        return empty

    def forward(self, x_ND: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return the module's output."""
        return self.module(x_ND), state


class LayerChain(nn.ModuleDict):
    """Ops in sequence: an encoder layer. Its state is the concatenation of the ops' lists of tensors.

    Args:
        ops: name -> `LayerOp`, in order. The names become part of parameter names (`encoder.layers.0.attention...`).

    >>> from wenet_fusion.model.layers.feed_forward import FeedForward
    >>> layer = LayerChain({"first": Residual(FeedForward(4, 8)), "second": Residual(FeedForward(4, 8))})
    >>> list(layer)
    ['first', 'second']
    """

    def __init__(self, ops: Mapping[str, nn.Module]):
        super().__init__(dict(ops))
        # mypy takes every attribute of a module for a tensor.
        sizes = [len(op.init_state(1, 1, torch.zeros(()))) for op in ops.values()]  # type: ignore[operator]
        self.ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]  # where each op's tensors end in the state

    def init_state(self, batch: int, cached: int, zero: Tensor) -> List[Tensor]:
        """Return the concatenated states of the ops before the first frame."""
        state: List[Tensor] = []
        for op in self.values():
            # mypy takes every attribute of a module for a tensor.
            state.extend(op.init_state(batch, cached, zero))  # type: ignore[operator]
        return state

    def forward(self, x_ND: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return the last op's output, and the ops' next states."""
        new: List[Tensor] = []
        start = 0
        for i, op in enumerate(self.values()):
            end = self.ends[i]
            x_ND, part = op(x_ND, state[start:end], context)
            new.extend(part)
            start = end
        return x_ND, new
