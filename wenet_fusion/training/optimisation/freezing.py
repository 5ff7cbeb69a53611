"""Freeze a part of the encoder, for fine-tuning, and BatchNorm statistics."""

from dataclasses import dataclass

from torch import nn

from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.encoder import Encoder
from wenet_fusion.model.layers.norm import freeze_statistics

ALWAYS = -1


@dataclass(frozen=True)
class FreezeConfig:
    """The part of the encoder whose weights and statistics are frozen, and for how long.

    >>> FreezeConfig(steps=-2).problems()
    ['steps: -2 is below -1; -1 freezes for the whole run, 0 not at all']
    """

    steps: int = 0  # number of first updates in which the part is frozen; -1: all updates; 0: none
    layers: int = -1  # freeze the subsampling and this number of first encoder layers; -1: the whole encoder

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        found = []
        if self.steps < ALWAYS:
            found.append(f"steps: {self.steps} is below -1; -1 freezes for the whole run, 0 not at all")
        if self.layers < -1:
            found.append(f"layers: {self.layers} is below -1; -1 freezes the whole encoder")
        return found

    def covers(self, step: int) -> bool:
        """Return whether the part is frozen in an update; `step` counts from 1."""
        return self.steps == ALWAYS or step <= self.steps


def _frozen_parts(encoder: Encoder, config: FreezeConfig) -> list[nn.Module]:
    layers = len(encoder.layers) if config.layers < 0 else config.layers
    return [encoder] if layers >= len(encoder.layers) else [encoder.subsampling, *encoder.layers[:layers]]


def freeze_for(model: AsrModel, step: int, config: FreezeConfig, all_statistics: bool) -> None:
    """Freeze or unfreeze parameters and BatchNorm statistics for an update.

    Args:
        model: changed in place.
        step: number of the update.
        config: the part of the encoder to freeze, and the updates that freeze it.
        all_statistics: freeze the statistics of every BatchNorm of the model in this update.
    """
    frozen = config.covers(step)
    freeze_statistics(model, all_statistics)
    for part in _frozen_parts(model.encoder, config):
        freeze_statistics(part, frozen or all_statistics)
        part.requires_grad_(not frozen)


def drop_frozen_gradients(model: AsrModel, step: int, config: FreezeConfig) -> None:
    """Zero the gradients of frozen layers' position biases, which share a table with the biases of other layers."""
    bias = model.encoder.position_bias
    if bias is not None and config.covers(step) and bias.table.grad is not None:
        bias.table.grad[:, : max(config.layers, 0) * bias.heads] = 0
