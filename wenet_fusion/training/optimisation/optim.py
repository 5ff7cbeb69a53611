"""The optimisers and their learning-rate schedule."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from wenet_fusion.training.optimisation.muon import MuonWithAdamW, is_hidden_matrix

# "inverse_sqrt" is the schedule of Vaswani et al. (arXiv 1706.03762, "Noam"), "wsd" is warm-up, stable, decay (Hu et
# al., arXiv 2404.06395), "cosine" is Loshchilov and Hutter's (arXiv 1608.03983) without restarts.
Decay = Literal["linear", "inverse_sqrt", "cosine", "wsd", "constant"]


@dataclass(frozen=True)
class OptimConfig:
    """Settings of the optimiser and the learning rate.

    >>> config = OptimConfig(learning_rate=0.002, warmup_steps=100)
    >>> [learning_rate(config, step, max_steps=1000) for step in (50, 100, 400)]
    [0.001, 0.002, 0.001]
    """

    algorithm: Literal["adamw", "muon"] = "adamw"  # muon: Muon (arXiv 2502.16982) for the layers' matrices
    learning_rate: float = 1e-3  # peak learning rate
    warmup_steps: int = 1000  # updates over which the rate rises linearly from 0 to the peak
    decay: Decay = "inverse_sqrt"  # schedule after the warm-up; linear, cosine and wsd reach 0 after max_steps
    decay_steps: int = 0  # wsd only: number of last updates, over which the rate falls linearly from the peak to 0
    weight_decay: float = 0.01  # weight decay of matrices; norms, biases and position biases have none
    beta_1: float = 0.9  # AdamW decay of the first moment
    beta_2: float = 0.98  # AdamW decay of the second moment
    muon_momentum: float = 0.95  # muon only: decay of the momentum
    muon_rate_factor: float = 1.0  # muon only: learning rate of its matrices as a multiple of learning_rate
    clip_norm: float = 5.0  # scale gradients with a larger norm down to this norm

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        found = [
            f"{name}: {getattr(self, name)} must be above 0"
            for name in ("learning_rate", "clip_norm", "muon_rate_factor")
            if getattr(self, name) <= 0
        ]
        if not 0 <= self.muon_momentum < 1:
            found.append(f"muon_momentum: {self.muon_momentum} is not in [0, 1); 0.95 is usual")
        if self.warmup_steps < 1:
            found.append(f"warmup_steps: {self.warmup_steps} must be at least 1; BatchNorm needs a slow start")
        if (self.decay_steps > 0) != (self.decay == "wsd") or self.decay_steps < 0:
            found.append(f"decay_steps: {self.decay_steps} belongs to decay: wsd, which needs 1 or more")
        return found


def learning_rate(config: OptimConfig, step: int, max_steps: int) -> float:
    """Return the learning rate of an update; `step` counts from 1."""
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    return config.learning_rate * _share_of_peak(config, step, max_steps)


def _share_of_peak(config: OptimConfig, step: int, max_steps: int) -> float:
    """Return the rate after the warm-up as a share of the peak."""
    left = max(0.0, (max_steps - step + 1) / max(1, max_steps - config.warmup_steps + 1))
    if config.decay == "linear":
        return left
    if config.decay == "cosine":
        return (1 - math.cos(math.pi * left)) / 2
    if config.decay == "wsd":
        return min(1.0, max(0.0, (max_steps - step + 1) / (config.decay_steps + 1)))
    return 1.0 if config.decay == "constant" else (config.warmup_steps / step) ** 0.5


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimiser of a model. Vectors (norms, biases) and position biases have no weight decay."""
    hidden: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        decays = parameter.dim() >= 2 and "_bias" not in name
        is_hidden = config.algorithm == "muon" and is_hidden_matrix(name, parameter)
        (hidden if is_hidden else matrices if decays else rest).append(parameter)
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    settings: dict[str, Any] = {"lr": config.learning_rate, "betas": (config.beta_1, config.beta_2), "fused": True}
    if config.algorithm == "adamw":
        return torch.optim.AdamW(groups, **settings)
    muon = {"muon_momentum": config.muon_momentum, "rate_factor": config.muon_rate_factor}
    return MuonWithAdamW([{"params": hidden, "weight_decay": config.weight_decay, **muon}, *groups], **settings)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of each group for an update: the rate, times the group's `rate_factor` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_factor", 1.0)
