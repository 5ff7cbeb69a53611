"""Muon for the hidden matrices of a model, AdamW for its other weights.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest
semi-orthogonal matrix. As in Liu et al. (arXiv 2502.16982), its updates are scaled to the size of AdamW's updates, so
that one learning rate suits both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Return whether Muon updates a parameter: a matrix in a layer, not an embedding, an output layer or a bias table.

    >>> weight = nn.Parameter(torch.zeros(4, 4))
    >>> [is_hidden_matrix(name, weight) for name in ("encoder.layers.0.attention.qkv.weight", "decoder.out.weight")]
    [True, False]
    """
    return parameter.dim() == 2 and (".layers." in name or ".subsampling." in name)


class MuonWithAdamW(torch.optim.Optimizer):
    """Combine two optimisers into one, whose `param_groups` holds the groups of both.

    Args:
        matrices: parameters that Muon updates.
        momentum: momentum of Muon.
        rate_factor: learning rate of Muon as a multiple of AdamW's.
        weight_decay: weight decay of `matrices`.
        adamw: updates the other parameters.

    >>> weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    >>> optimizer = MuonWithAdamW([weight], 0.95, 1.0, 0.0, torch.optim.AdamW([bias]))
    >>> [len(group["params"]) for group in optimizer.param_groups]
    [1, 1]
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        momentum: float,
        rate_factor: float,
        weight_decay: float,
        adamw: torch.optim.AdamW,
    ) -> None:
        group = {"params": list(matrices), "rate_factor": rate_factor}
        self._parts: tuple[torch.optim.Optimizer, torch.optim.Optimizer] = (
            torch.optim.Muon([group], momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            adamw,
        )
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._join()

    def _join(self) -> None:
        """Refer to the groups and states of both optimisers, without copies."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self.state: Any = {weight: values for part in self._parts for weight, values in part.state.items()}

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters that have a gradient."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        self._join()  # the first step makes the states
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimisers."""
        muon, adamw = (part.state_dict() for part in self._parts)
        return {"muon": muon, "adamw": adamw}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned; KeyError or ValueError if another optimiser wrote it."""
        for part, name in zip(self._parts, ("muon", "adamw")):
            part.load_state_dict(state_dict[name])
        self._join()
