"""The state of streams between two steps.

Shapes: B streams, T encoder frames, C cached frames, D width.
"""

from typing import NamedTuple

import numpy as np

from wenet_fusion_kernels.sizes import Sizes


class Block:
    """Numbers that a step of a stream wrote and that later steps only read.

    Args:
        memory: float32 array, contiguous and aligned.

    Raises:
        ValueError: the array is another one.
    """

    __slots__ = ("address", "memory")

    def __init__(self, memory: np.ndarray) -> None:
        if memory.dtype != np.float32 or not (memory.flags.c_contiguous and memory.flags.aligned):
            raise ValueError(f"a block needs a contiguous and aligned array of float32, found {memory.dtype}")
        self.memory = memory
        self.address: int = memory.ctypes.data  # kept, because looking it up takes longer than passing it on

    def __reduce__(self) -> tuple[type["Block"], tuple[np.ndarray]]:
        return Block, (self.memory,)  # a copy has another address


class StreamState(NamedTuple):
    """The state of a stream. It is a value: no call changes it, and successive states share blocks.

    A block of `past` is (layers, heads, 2, T, D / heads): keys and values of the T frames of a step. The keys of a head
    lie in memory as (D / heads, T). The blocks together have at least C frames, if there were so many.
    """

    sizes: Sizes  # of the model
    cached: int  # C
    rolling: Block  # the front-end's last samples, and the past inputs of the convolutions
    past: tuple[Block, ...]  # oldest first


State = tuple[StreamState, ...]  # of the B streams of a step


def newest(blocks: tuple[Block, ...], cached: int) -> tuple[Block, ...]:
    """Return the last blocks: as few as have `cached` frames together, or all."""
    frames, kept = 0, len(blocks)
    while kept and frames < cached:
        kept -= 1
        frames += blocks[kept].memory.shape[3]
    return blocks[kept:]


def is_own(state: object, sizes: Sizes, floats: int, cached: int) -> bool:
    """Return whether a state is one of a model of these sizes, with `floats` rolling numbers and this left context."""
    if not isinstance(state, StreamState) or state.sizes != sizes or state.cached != cached:
        return False
    shapes = (block.memory.shape for block in state.past)
    return state.rolling.memory.shape == (floats,) and all(
        len(shape) == 5 and shape == (sizes.layers, sizes.heads, 2, shape[3], sizes.dim // sizes.heads)
        for shape in shapes
    )
