"""The optimiser and its learning-rate schedule."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class OptimConfig:
    """Settings of AdamW and of its learning rate.

    >>> config = OptimConfig(learning_rate=0.002, warmup_steps=100)
    >>> [learning_rate(config, step, max_steps=1000) for step in (50, 100, 400)]
    [0.001, 0.002, 0.001]
    """

    learning_rate: float = 1e-3  # peak learning rate
    warmup_steps: int = 1000  # updates over which the rate rises linearly from 0 to the peak
    decay: Literal["linear", "inverse_sqrt"] = "inverse_sqrt"  # after the warm-up; linear reaches 0 at max_steps
    weight_decay: float = 0.01  # AdamW weight decay of matrices; norms and biases have none
    beta_1: float = 0.9  # AdamW decay of the first moment
    beta_2: float = 0.98  # AdamW decay of the second moment
    clip_norm: float = 5.0  # gradients with a larger norm are scaled down to it

    def problems(self) -> list[str]:
        """Return what is wrong with the values, one message each."""
        found = [
            f"{name}: {getattr(self, name)} must be above 0"
            for name in ("learning_rate", "clip_norm")
            if getattr(self, name) <= 0
        ]
        if self.warmup_steps < 1:
            found.append(f"warmup_steps: {self.warmup_steps} must be at least 1; BatchNorm needs a slow start")
        return found


def learning_rate(config: OptimConfig, step: int, max_steps: int) -> float:
    """Return the learning rate of an update; the first one is step 1."""
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.decay == "linear":
        return config.learning_rate * max(0.0, (max_steps - step + 1) / max(1, max_steps - config.warmup_steps + 1))
    return config.learning_rate * (config.warmup_steps / step) ** 0.5


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build AdamW for a model. Vectors (norms, biases) and position biases have no weight decay."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        decays = parameter.dim() >= 2 and "position_bias" not in name
        (matrices if decays else rest).append(parameter)
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta_1, config.beta_2))
