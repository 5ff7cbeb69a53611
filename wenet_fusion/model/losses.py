"""Weights of the losses, and the losses of a batch."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses.

    >>> LossConfig(ctc_weight=2).problems()
    ['ctc_weight: 2 is not between 0 and 1']
    """

    ctc_weight: float = 0.3  # weight of the CTC loss; the rest goes to the attention decoders
    reverse_weight: float = 0.3  # share of the right-to-left decoder in the attention loss
    label_smoothing: float = 0.1  # probability mass spread over all tokens; attention loss only
    intermediate_layers: tuple[int, ...] = ()  # encoder layers with a CTC loss in training; 1 is the first
    intermediate_weight: float = 0.3  # share of the intermediate layers in the CTC loss
    intermediate_heads: Literal["shared", "own"] = "shared"  # shared: final CTC head; own: one per layer, not exported
    consistency_weight: float = 0.0  # weight of CR-CTC (e.g. 0.2), which trains on two views of each utterance; 0: off
    consistency_warmup_steps: int = 2000  # updates over which the weight of CR-CTC rises linearly from 0
    delay_penalty: float = 0.0  # penalty on late CTC tokens in training, nats per token and frame, e.g. 0.01; 0: off

    def problems(self) -> list[str]:
        shares = ("ctc_weight", "reverse_weight", "label_smoothing", "intermediate_weight")
        found = [
            f"{name}: {getattr(self, name)} is not between 0 and 1"
            for name in shares
            if not 0 <= getattr(self, name) <= 1
        ]
        others = ("consistency_weight", "consistency_warmup_steps", "delay_penalty")
        return found + [f"{name}: {getattr(self, name)} is negative" for name in others if getattr(self, name) < 0]

    def consistency_at(self, step: int) -> float:
        """Return the weight of CR-CTC at an update; `step` counts from 1."""
        return self.consistency_weight * min(1.0, step / max(1, self.consistency_warmup_steps))


class Losses(NamedTuple):
    """Mean losses of a batch, per utterance (and per view, if there are two views)."""

    total: Tensor  # the loss that training minimises
    ctc: Tensor
    attention: Tensor
    intermediate: Tensor  # mean CTC loss of the intermediate layers; 0 outside training
    consistency: Tensor  # CR-CTC loss per utterance; 0 with one view
