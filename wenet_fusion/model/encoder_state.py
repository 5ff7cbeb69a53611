"""The encoder's state, and its form as a flat list of tensors, which exported files pass from step to step.

Shapes: B utterances, C cached frames.
"""

from typing import List, NamedTuple

from torch import Tensor


class EncoderState(NamedTuple):
    """The state of B streams between two steps. B is the first axis of every tensor; the shapes never change."""

    position: Tensor  # (B,) encoder frames already emitted; rows may differ
    subsampling: List[Tensor]
    layers: List[List[Tensor]]  # one list per layer


def flatten(state: EncoderState) -> List[Tensor]:
    """Return every tensor of a state: position, subsampling, then each layer's."""
    flat = [state.position]
    flat.extend(state.subsampling)
    for layer in state.layers:
        flat.extend(layer)
    return flat


def unflatten(flat: List[Tensor], sizes: List[int]) -> EncoderState:
    """Return the state from the list that `flatten` returned; `sizes` is `part_sizes` of a fresh state."""
    parts: List[List[Tensor]] = []
    start = 1
    for size in sizes:
        parts.append(flat[start : start + size])
        start += size
    return EncoderState(flat[0], parts[0], parts[1:])


def part_sizes(fresh: EncoderState) -> List[int]:
    """Return the number of tensors of the subsampling and of each layer.

    >>> import torch
    >>> part_sizes(EncoderState(torch.zeros(1), [torch.zeros(1)], [[], [torch.zeros(1), torch.zeros(1)]]))
    [1, 0, 2]
    """
    return [len(fresh.subsampling), *(len(layer) for layer in fresh.layers)]


def growing_axes(shorter: List[Tensor], longer: List[Tensor]) -> List[int]:
    """Return for each tensor the axis that grows with the number of cached frames, or -1.

    Args:
        shorter, longer: fresh states with caches of different lengths.

    >>> import torch
    >>> growing_axes([torch.zeros(1, 7, 4), torch.zeros(1, 2, 8)], [torch.zeros(1, 7, 4), torch.zeros(1, 3, 8)])
    [-1, 1]
    """
    found = []
    for short, long in zip(shorter, longer):
        axes = [axis for axis, sizes in enumerate(zip(short.shape, long.shape)) if sizes[0] != sizes[1]]
        found.append(axes[0] if axes else -1)
    return found
