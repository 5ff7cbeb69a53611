"""Replace random spans of feature frames by earlier frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class SubstitutionConfig:
    """SpecSub: replaces spans of an utterance by earlier frames; off by default.

    >>> SubstitutionConfig(num_spans=3, max_frames=0).problems()
    ['max_frames 0 must be at least 1']
    """

    num_spans: int = 0  # spans per utterance; 0: none; 3 is a good first choice
    max_frames: int = 30  # longest span, feature frames

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        found = [f"num_spans {self.num_spans} must not be negative"] if self.num_spans < 0 else []
        return found + ([f"max_frames {self.max_frames} must be at least 1"] if self.max_frames < 1 else [])


def substituted_frames(
    lengths: Sequence[int], config: SubstitutionConfig, rngs: Iterable[np.random.Generator]
) -> torch.Tensor | None:
    """Draw which frame replaces each frame (SpecSub; Wu et al., 2021, arXiv 2106.05642).

    Args:
        lengths: feature frames of each utterance.
        config: number and length of the spans.
        rngs: a generator for each utterance.

    Returns:
        Int64 (B, T): for each frame, the index of the frame that replaces it: itself or an earlier one. Padding is not
        replaced. T is the largest of `lengths`. None if there are no spans.

    >>> substituted_frames([4], SubstitutionConfig(), [np.random.default_rng(0)]) is None
    True
    """
    if not config.num_spans:
        return None
    frames = np.arange(max(lengths, default=0))
    sources = np.tile(frames, (len(lengths), 1))
    for row, length, rng in zip(sources, lengths, rngs):
        for _ in range(config.num_spans if length else 0):
            start = int(rng.integers(length))
            end = min(length, start + int(rng.integers(1, config.max_frames + 1)))
            row[start:end] = frames[start:end] - int(rng.integers(start + 1))
    return torch.from_numpy(sources)
