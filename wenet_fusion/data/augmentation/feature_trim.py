"""Cut a random number of feature frames off the end of each utterance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TrimConfig:
    """TrimTail (SpecTrim): cuts frames off the end of an utterance; off by default.

    >>> TrimConfig(max_frames=-1).problems()
    ['max_frames -1 must not be negative']
    """

    max_frames: int = 0  # most feature frames to cut off the end, right padding included; 0: none; try 20 first

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        return [f"max_frames {self.max_frames} must not be negative"] if self.max_frames < 0 else []


def trimmed_lengths(
    lengths: Sequence[int], shortest: Sequence[int], config: TrimConfig, rngs: Iterable[np.random.Generator]
) -> list[int]:
    """Draw the lengths of utterances after trimming (TrimTail; Song et al., 2022, arXiv 2211.00522).

    An utterance keeps at least half of its frames, and the frames that its transcript needs.

    Args:
        lengths: feature frames of each utterance.
        shortest: feature frames that each transcript needs.
        config: largest number of frames to cut off.
        rngs: a generator for each utterance.

    >>> trimmed_lengths([100, 8], [10, 8], TrimConfig(max_frames=0), map(np.random.default_rng, (0, 1)))
    [100, 8]
    """
    trimmed = []
    for length, needed, rng in zip(lengths, shortest, rngs):
        kept = length - int(rng.integers(config.max_frames + 1))
        trimmed.append(max(kept, min(length, max(needed, -(-length // 2)))))
    return trimmed
