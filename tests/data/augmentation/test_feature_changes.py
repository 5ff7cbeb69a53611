"""SpecSub and TrimTail copy earlier frames only, leave padding and room for transcripts, and have their own draws."""

import numpy as np
import torch

from wenet_fusion.data.augmentation.feature_substitution import SubstitutionConfig, substituted_frames
from wenet_fusion.data.augmentation.feature_trim import TrimConfig, trimmed_lengths

LENGTHS = [200, 50, 0, 3, 1]


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, row]) for row in range(count)]


def test_spans_come_from_earlier_frames_and_padding_stays() -> None:
    config = SubstitutionConfig(3, 30)
    sources = substituted_frames(LENGTHS, config, generators(5))
    assert sources is not None and sources.shape == (5, 200) and sources.dtype == torch.int64
    frames = torch.arange(200)
    assert (sources <= frames).all() and (sources >= 0).all(), "copying a later frame would be look-ahead"
    assert (sources[0] != frames).any() and (sources[1] != frames).any()
    for row, length in zip(sources, LENGTHS):
        assert torch.equal(row[length:], frames[length:])
        assert (row != frames).sum() <= 3 * 30
        steps = row[1:length].diff() if length > 2 else torch.ones(1)
        assert (steps != 1).sum() <= 6, "spans are copied whole"
    again = substituted_frames(LENGTHS[1:], config, generators(5)[1:])
    assert again is not None and torch.equal(sources[1:, :50], again), "in any batch"


def test_spans_have_every_length_and_place() -> None:
    sources = substituted_frames([100] * 500, SubstitutionConfig(1, 5), generators(500))
    assert sources is not None
    changed = sources != torch.arange(100)
    assert set(changed.sum(dim=1).tolist()) == {0, 1, 2, 3, 4, 5}
    assert changed[:, 1:].any(dim=0).all() and not changed[:, 0].any(), "nothing comes before the first frame"


def test_trimming_keeps_half_and_room_for_the_transcript() -> None:
    lengths, shortest = [200, 50, 8, 3, 0, 20] * 50, [8, 48, 8, 4, 0, 0] * 50
    trimmed = trimmed_lengths(lengths, shortest, TrimConfig(20), generators(300))
    for kept, length, needed in zip(trimmed, lengths, shortest):
        assert min(length, max(needed, (length + 1) // 2)) <= kept <= length
    assert set(trimmed[0::6]) <= set(range(180, 201)) and min(trimmed[0::6]) < 185
    assert min(trimmed[1::6]) == 48 and min(trimmed[5::6]) == 10
    assert trimmed_lengths(lengths, shortest, TrimConfig(), generators(300)) == lengths
