"""Muon for the hidden matrices of a model, AdamW for its other weights.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest
semi-orthogonal matrix. As in Liu et al. (arXiv 2502.16982), its updates are scaled to the size of AdamW's updates, so
that one learning rate suits both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS, STEPS = (3.4445, -4.7750, 2.0315), 5  # of the Newton-Schulz iteration, as in Jordan et al.


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Return whether Muon updates a parameter: a matrix of layers or subsampling, no embedding, output or bias table.

    >>> weight = nn.Parameter(torch.zeros(4, 4))
    >>> [is_hidden_matrix(name, weight) for name in ("encoder.layers.0.attention.qkv.weight", "decoder.out.weight")]
    [True, False]
    """
    return parameter.dim() == 2 and (".layers." in name or ".subsampling." in name)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return a matrix with the singular vectors of `matrix` and singular values of about 0.7 to 1.2.

    Newton-Schulz iterations run in bfloat16 on GPUs, as in torch's Muon, and elsewhere in the precision of the matrix:
    a processor without bfloat16 instructions would take five times as long in bfloat16.
    """
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    x = x.T if matrix.size(0) > matrix.size(1) else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if matrix.size(0) > matrix.size(1) else x).to(matrix.dtype)


class MuonWithAdamW(torch.optim.AdamW):
    """Update the groups that have a `muon_momentum` by Muon, and the others by AdamW.

    >>> weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    >>> optimizer = MuonWithAdamW([{"params": [weight], "muon_momentum": 0.95}, {"params": [bias]}])
    >>> [len(group["params"]) for group in optimizer.param_groups]
    [1, 1]
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters that have a gradient, and drop the gradients of Muon's parameters."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in (each for each in self.param_groups if "muon_momentum" in each):
            for weight in (each for each in group["params"] if each.grad is not None):
                state = self.state[weight]
                if not state:  # AdamW expects a step in each state that it restores
                    state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(weight)}
                momentum = state["momentum"].lerp_(weight.grad, 1 - group["muon_momentum"])
                update = orthogonalised(weight.grad.lerp(momentum, group["muon_momentum"]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-0.2 * group["lr"] * max(weight.shape) ** 0.5)
                weight.grad = None  # AdamW leaves out parameters without a gradient
        super().step()
        return loss
