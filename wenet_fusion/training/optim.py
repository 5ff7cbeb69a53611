"""Optimiser and learning-rate schedule. Know no model beyond its named parameters."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class OptimConfig:
    learning_rate: float = 1e-3  # peak
    warmup_steps: int = 1000  # linear from 0 to the peak
    decay: Literal["linear", "inverse_sqrt"] = "inverse_sqrt"  # linear: to 0 at the last step
    weight_decay: float = 0.01  # on matrices only, never on norms and biases
    beta_1: float = 0.9
    beta_2: float = 0.98
    clip_norm: float = 5.0  # largest gradient norm

    def problems(self) -> list[str]:
        found = [
            f"{name}: {getattr(self, name)} must be above 0"
            for name in ("learning_rate", "clip_norm")
            if getattr(self, name) <= 0
        ]
        if self.warmup_steps < 1:
            found.append(f"warmup_steps: {self.warmup_steps} must be at least 1; BatchNorm needs a slow start")
        return found


def learning_rate(config: OptimConfig, step: int, max_steps: int) -> float:
    """The rate of the step-th update, counted from 1."""
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.decay == "linear":
        return config.learning_rate * max(0.0, (max_steps - step + 1) / max(1, max_steps - config.warmup_steps + 1))
    return config.learning_rate * (config.warmup_steps / step) ** 0.5


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; vectors (norms, biases) and position biases are not decayed."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        decays = parameter.dim() >= 2 and "position_bias" not in name
        (matrices if decays else rest).append(parameter)
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta_1, config.beta_2))
