"""Chunking: the attention mask, how training draws a chunking, and labels such as 16/4."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.model.laws import random_geometries

from wenet_fusion.model.chunking import (
    FULL_CONTEXT,
    Chunking,
    ChunkingConfig,
    chunking_label,
    draw_chunking,
    parse_chunking,
    visible,
)


@random_geometries
@given(
    st.integers(1, 7),
    st.integers(0, 4),
    st.lists(st.integers(0, 40), min_size=1, max_size=3),
    st.integers(0, 10),
    st.integers(1, 12),
)
def test_visible_equals_a_plain_loop(size: int, left: int, starts: list[int], cached: int, frames: int) -> None:
    query = torch.tensor(starts).unsqueeze(1) + torch.arange(frames)
    key = torch.tensor(starts).unsqueeze(1) + torch.arange(-cached, frames)
    found = visible(query, key, Chunking(size, left))
    assert found.shape == (len(starts), frames, cached + frames)
    for b, start in enumerate(starts):
        for t in range(frames):
            chunk = (start + t) // size
            seen = range(max(0, (chunk - left) * size), (chunk + 1) * size)
            expected = [start - cached + s in seen for s in range(cached + frames)]
            assert found[b, t].tolist() == expected


def test_full_context_sees_everything_and_nothing_before_the_stream() -> None:
    query, key = torch.arange(5).unsqueeze(0), torch.arange(-3, 5).unsqueeze(0)
    assert visible(query, key, FULL_CONTEXT).tolist() == [[[False] * 3 + [True] * 5] * 5]


@pytest.mark.parametrize("label", ["full", "16/4", "1/0"])
def test_labels(label: str) -> None:
    assert chunking_label(parse_chunking(label)) == label


@pytest.mark.parametrize("label", ["", "16", "0/4", "-1/4", "16/", "/4", "16/4/2", "16-4", "Full"])
def test_a_wrong_label_is_refused_with_the_remedy(label: str) -> None:
    with pytest.raises(ValueError, match=rf"chunking '{label}' is neither 'full' nor SIZE/LEFT .* such as 16/4"):
        parse_chunking(label)


def draws(config: ChunkingConfig, seed: int, count: int = 2000) -> list[Chunking]:
    generator = random.Random(seed)
    return [draw_chunking(config, generator) for _ in range(count)]


def test_the_sampler_draws_what_is_configured() -> None:
    config = ChunkingConfig(sizes=(8, 12, 16), left_context_frames=(32, 64), full_context_probability=0.3)
    found = draws(config, 0)
    assert found == draws(config, 0) != draws(config, 1)
    assert set(found) == {FULL_CONTEXT} | {
        Chunking(8, 4),
        Chunking(8, 8),
        Chunking(12, 3),
        Chunking(12, 6),
        Chunking(16, 2),
        Chunking(16, 4),
    }
    assert found.count(FULL_CONTEXT) / len(found) == pytest.approx(0.3, abs=0.04)
    drawn_sizes = [chunking.size for chunking in found if chunking != FULL_CONTEXT]
    assert all(drawn_sizes.count(size) / len(drawn_sizes) == pytest.approx(1 / 3, abs=0.05) for size in config.sizes)


@pytest.mark.parametrize("probability, expected", [(0.0, 0), (1.0, 200)])
def test_the_share_of_full_context_may_be_none_or_all(probability: float, expected: int) -> None:
    assert draws(ChunkingConfig(full_context_probability=probability), 0, 200).count(FULL_CONTEXT) == expected


def test_served_chunkings_have_the_longest_trained_context() -> None:
    config = ChunkingConfig(sizes=(16, 6), left_context_frames=(32, 64))
    assert config.served() == [Chunking(6, 11), Chunking(16, 4)]
    assert set(config.served()) < set(draws(config, 0))


@pytest.mark.parametrize(
    "config, problem",
    [
        (ChunkingConfig(sizes=()), "sizes: "),
        (ChunkingConfig(sizes=(8, 0)), "sizes: "),
        (ChunkingConfig(left_context_frames=()), "left_context_frames: "),
        (ChunkingConfig(left_context_frames=(64, -1)), "left_context_frames: "),
        (ChunkingConfig(full_context_probability=1.1), "full_context_probability: "),
    ],
)
def test_wrong_configurations_are_named(config: ChunkingConfig, problem: str) -> None:
    assert len(config.problems()) == 1 and config.problems()[0].startswith(problem)
    assert ChunkingConfig().problems() == []
