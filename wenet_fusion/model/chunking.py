"""Chunk size and left context of streaming attention; training draws them at random (Zhang et al., arXiv 2012.05481).

Shapes: B utterances, T queries, S keys.
"""

import math
import random
import re
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Chunking(NamedTuple):
    """Attention context in chunks of encoder frames (40 ms each with the default hop of 10 ms)."""

    size: int  # frames per chunk; a frame attends to its whole chunk, later frames included
    left: int  # number of earlier chunks that a frame also attends to


# Full context is one chunk that is larger than any utterance.
FULL_CONTEXT = Chunking(size=1 << 30, left=0)


def visible(query_position_BT: Tensor, key_position_BS: Tensor, chunking: Chunking) -> Tensor:
    """Return the attention mask: true where a query may attend to a key. TorchScript can compile it.

    Args:
        query_position_BT: absolute encoder frames of the queries.
        key_position_BS: absolute encoder frames of the keys; negative ones lie before the stream and are masked.
        chunking: chunk size and left context.

    Returns:
        Boolean (B, T, S).
    """
    query_chunk = query_position_BT.div(chunking.size, rounding_mode="floor").unsqueeze(2)
    key_chunk = key_position_BS.div(chunking.size, rounding_mode="floor").unsqueeze(1)
    in_context = (key_chunk <= query_chunk) & (key_chunk >= query_chunk - chunking.left)
    return in_context & (key_position_BS >= 0).unsqueeze(1)


def parse_chunking(label: str) -> Chunking:
    """Read `full` or `SIZE/LEFT`, for example `16/4`.

    >>> parse_chunking("16/4")
    Chunking(size=16, left=4)

    Raises:
        ValueError: if the label has another form.
    """
    if label == "full":
        return FULL_CONTEXT
    size, slash, left = label.partition("/")
    if not (slash and re.fullmatch("[0-9]{1,6}", size) and re.fullmatch("[0-9]{1,6}", left) and int(size) > 0):
        raise ValueError(
            f"chunking {label!r} is neither 'full' nor SIZE/LEFT in encoder frames and chunks, such as 16/4"
        )
    return Chunking(int(size), int(left))


def chunking_label(chunking: Chunking) -> str:
    """Return the label that `parse_chunking` reads."""
    return "full" if chunking.size >= FULL_CONTEXT.size else f"{chunking.size}/{chunking.left}"


@dataclass(frozen=True)
class ChunkingConfig:
    """Dynamic chunk training: each batch draws a chunking, so one model can stream with every trained chunk size.

    >>> ChunkingConfig(sizes=(8, 16), left_context_frames=(64,)).served()
    [Chunking(size=8, left=8), Chunking(size=16, left=4)]
    """

    sizes: tuple[int, ...] = (8, 16)  # chunk sizes to train, encoder frames
    left_context_frames: tuple[int, ...] = (64,)  # left contexts to train, encoder frames; rounded up to whole chunks
    full_context_probability: float = 0.3  # share of batches whose frames attend to the whole utterance

    def problems(self) -> list[str]:
        found = []
        if not self.sizes or min(self.sizes) < 1:
            found.append(f"sizes: {list(self.sizes)} must name at least one chunk size of 1 frame or more")
        if not self.left_context_frames or min(self.left_context_frames) < 0:
            found.append(
                f"left_context_frames: {list(self.left_context_frames)} must name at least one length, none negative"
            )
        if not 0 <= self.full_context_probability <= 1:
            found.append(f"full_context_probability: {self.full_context_probability} is not between 0 and 1")
        return found

    def served(self) -> list[Chunking]:
        """Return each chunk size with its longest left context: the defaults of checks, evaluation and export."""
        return [
            max(chunking for chunking in self.trained() if chunking.size == size) for size in sorted(set(self.sizes))
        ]

    def trained(self) -> list[Chunking]:
        """Return every chunking that training draws, except full context."""
        return sorted(
            {Chunking(size, math.ceil(left / size)) for size in self.sizes for left in self.left_context_frames}
        )


def draw_chunking(config: ChunkingConfig, generator: random.Random) -> Chunking:
    """Draw the chunking of one training batch."""
    if generator.random() < config.full_context_probability:
        return FULL_CONTEXT
    size = generator.choice(config.sizes)
    return Chunking(size, math.ceil(generator.choice(config.left_context_frames) / size))
