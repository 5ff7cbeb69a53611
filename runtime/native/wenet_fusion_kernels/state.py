"""The state of streams between two steps.

Shapes: B streams, T encoder frames, C cached frames, D width.
"""

from typing import NamedTuple

import numpy as np

from wenet_fusion_kernels.sizes import Sizes


class Block:
    """Numbers that a step of a stream wrote and that later steps only read.

    Args:
        memory: float32 array.
    """

    __slots__ = ("address", "memory")

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory
        self.address: int = memory.ctypes.data  # kept, because looking it up takes longer than passing it on

    def __reduce__(self) -> tuple[type["Block"], tuple[np.ndarray]]:
        return Block, (self.memory,)  # a copy has another address


class StreamState(NamedTuple):
    """The state of a stream. It is a value: no call changes it, and successive states share blocks."""

    sizes: Sizes  # of the model
    cached: int  # C
    rolling: Block  # the front-end's last samples, and the past inputs of the convolutions
    past: tuple[
        Block, ...
    ]  # keys and values of at least C frames, if there were so many: (layers, heads, 2, T, D / heads)


State = tuple[StreamState, ...]  # of the B streams of a step


def newest(blocks: tuple[Block, ...], cached: int) -> tuple[Block, ...]:
    """Return the last blocks, no more than have `cached` frames together."""
    frames, kept = 0, len(blocks)
    while kept and frames < cached:
        kept -= 1
        frames += blocks[kept].memory.shape[3]
    return blocks[kept:]
