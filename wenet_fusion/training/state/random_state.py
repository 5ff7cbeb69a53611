"""Save and restore the states of torch's random generators in all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wenet_fusion.ranks import Placement


class RandomState(NamedTuple):
    """The states of torch's generators in one process."""

    cpu: Tensor
    cuda: Tensor | None  # the generator of the GPU that trains; None on the CPU


def own_random_state(device: torch.device) -> RandomState:
    """Return the generator states of this process."""
    return RandomState(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)


def set_own_random_state(state: RandomState, device: torch.device) -> None:
    """Set the generators of this process to a state."""
    torch.set_rng_state(state.cpu)
    if state.cuda is not None:
        torch.cuda.set_rng_state(state.cuda, device)


def random_states(placement: Placement) -> tuple[list[Tensor], list[Tensor]]:
    """Return the states of torch's CPU generators of all ranks, and of their GPU generators if they train on GPUs.

    Every rank must call it.
    """
    device, ranks = placement
    states = ranks.all(own_random_state(device))
    return [cpu for cpu, _ in states], [cuda for _, cuda in states if cuda is not None]


def restore_random_states(placement: Placement, cpu: Sequence[Tensor], cuda: Sequence[Tensor], seed: int) -> bool:
    """Restore this rank's generators and return True; if the number of ranks differs, seed them and return False.

    Args:
        placement: this rank.
        cpu, cuda: states that `random_states` returned.
        seed: used if the number of ranks differs.
    """
    device, ranks = placement
    if len(cpu) != ranks.world:
        torch.manual_seed(seed + ranks.rank)
        return False
    torch.set_rng_state(cpu[ranks.rank])
    if device.type == "cuda" and len(cuda) == ranks.world:
        torch.cuda.set_rng_state(cuda[ranks.rank], device)
    return True
