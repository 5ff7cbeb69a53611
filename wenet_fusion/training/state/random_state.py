"""The random generators of all ranks: what a training state keeps of them, and how a resumed run gets them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wenet_fusion.ranks import Placement


class RandomState(NamedTuple):
    """The states of torch's generators in one process."""

    cpu: Tensor
    cuda: Tensor | None  # of the GPU that trains


def own_random_state(device: torch.device) -> RandomState:
    """Return the states of this process."""
    return RandomState(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)


def set_own_random_state(state: RandomState, device: torch.device) -> None:
    """Continue the generators of this process at a state."""
    torch.set_rng_state(state.cpu)
    if state.cuda is not None:
        torch.cuda.set_rng_state(state.cuda, device)


def random_states(placement: Placement) -> tuple[list[Tensor], list[Tensor]]:
    """Return the states of torch's generators of all ranks: on the CPU, and on the GPU if they train there.

    Every rank calls it.
    """
    device, ranks = placement
    states = ranks.all(own_random_state(device))
    return [cpu for cpu, _ in states], [cuda for _, cuda in states if cuda is not None]


def restore_random_states(placement: Placement, cpu: Sequence[Tensor], cuda: Sequence[Tensor], seed: int) -> bool:
    """Continue the generators where they were. Of another number of ranks, start them anew and return False.

    Args:
        placement: this rank.
        cpu, cuda: from `random_states`.
        seed: for generators that start anew.
    """
    device, ranks = placement
    if len(cpu) != ranks.world:
        torch.manual_seed(seed + ranks.rank)
        return False
    torch.set_rng_state(cpu[ranks.rank])
    if device.type == "cuda" and len(cuda) == ranks.world:
        torch.cuda.set_rng_state(cuda[ranks.rank], device)
    return True
