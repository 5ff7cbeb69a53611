"""Draw SpecAugment masks for features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from wenet_fusion.data.augmentation.feature_substitution import SubstitutionConfig
from wenet_fusion.data.augmentation.feature_trim import TrimConfig


@dataclass(frozen=True)
class SpecAugmentConfig:
    """Settings of random changes of features: SpecAugment masks of random width, SpecSub and TrimTail.

    >>> SpecAugmentConfig(max_time_fraction=1.5).problems()
    ['max_time_fraction 1.5 must lie between 0 and 1']
    """

    num_time_masks: int = 2  # time masks per utterance
    max_time_frames: int = 50  # widest time mask, feature frames
    num_freq_masks: int = 2  # frequency masks per utterance
    max_freq_bins: int = 10  # widest frequency mask, mel bins
    max_time_fraction: float = 0.2  # a time mask covers at most this share of the utterance; matters for short ones
    substitution: SubstitutionConfig = field(default_factory=SubstitutionConfig)  # spans replaced by earlier frames
    trim: TrimConfig = field(default_factory=TrimConfig)  # frames cut off the end

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        names = ("num_time_masks", "max_time_frames", "num_freq_masks", "max_freq_bins")
        found = [f"{name} {getattr(self, name)} must not be negative" for name in names if getattr(self, name) < 0]
        if not 0 <= self.max_time_fraction <= 1:
            found.append(f"max_time_fraction {self.max_time_fraction} must lie between 0 and 1")
        return found


def feature_masks(
    lengths: Sequence[int], num_mel_bins: int, config: SpecAugmentConfig, rngs: Iterable[np.random.Generator]
) -> torch.Tensor:
    """Draw SpecAugment masks (Park et al., 2019, arXiv 1904.08779).

    Frequency masks cover all frames of an utterance, time masks all bins; padding is never masked.

    Args:
        lengths: feature frames of each utterance.
        num_mel_bins: F.
        config: number and widths of the masks.
        rngs: a generator for each utterance, so that its masks do not depend on the other rows.

    Returns:
        Bool (B, T, F), True where features are masked; T is the largest of `lengths`.
    """
    masks = torch.zeros(len(lengths), max(lengths, default=0), num_mel_bins, dtype=torch.bool)
    for row, length, rng in zip(masks, lengths, rngs):
        max_width = min(config.max_time_frames, int(config.max_time_fraction * length))
        for _ in range(config.num_time_masks):
            start, end = _span(max_width, length, rng)
            row[start:end] = True
        for _ in range(config.num_freq_masks):
            start, end = _span(min(config.max_freq_bins, num_mel_bins), num_mel_bins, rng)
            row[:length, start:end] = True
    return masks


def _span(max_width: int, length: int, rng: np.random.Generator) -> tuple[int, int]:
    width = int(rng.integers(max_width + 1))
    start = int(rng.integers(length - width + 1))
    return start, start + width
