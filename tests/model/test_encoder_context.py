"""Cache, chunk and position of the encoder: zero caches, full context, endless streams; and its configuration."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.model import laws
from support.model.encoders import FIXED, Geometry, build, features, geometries, states_after

from wenet_fusion.model import encoder as encoder_module
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.model.encoder import Encoder
from wenet_fusion.model.encoder_config import EncoderConfig

pytestmark = pytest.mark.usefixtures("float64")


@laws.random_geometries
@given(geometries(), st.integers(1, 12), st.integers(1, 9))
def test_a_zero_cache_equals_an_absent_cache(geometry: Geometry, frames: int, cached: int) -> None:
    encoder, x, lengths = build(geometry), features(geometry, 2, frames), torch.tensor([frames, frames])
    absent, zeros = (encoder(x, lengths, geometry.chunking, encoder.init_state(2, n)).frames_BTD for n in (0, cached))
    assert laws.difference(zeros, absent) <= laws.BOUND


def test_a_zero_cache_that_is_seen_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, x, lengths = build(FIXED), features(FIXED, 1, 6), torch.tensor([6])
    target = encoder(x, lengths, FIXED.chunking, encoder.init_state(1, 0)).frames_BTD
    see = encoder_module.visible
    monkeypatch.setattr(encoder_module, "visible", lambda query, key, chunking: see(query + 60, key + 60, chunking))
    assert (
        laws.difference(encoder(x, lengths, FIXED.chunking, encoder.init_state(1, 6)).frames_BTD, target) > laws.BROKEN
    )


@laws.random_geometries
@given(geometries(), st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
def test_full_context_is_one_chunk_larger_than_the_utterance(
    geometry: Geometry, frames: int, larger: int, left: int
) -> None:
    encoder, x, lengths = build(geometry), features(geometry, 1, frames), torch.tensor([frames])
    full, one = (
        encoder(x, lengths, chunking, encoder.init_state(1, 0)).frames_BTD
        for chunking in (FULL_CONTEXT, Chunking(frames + larger, left))
    )
    assert laws.difference(one, full) <= laws.BOUND


def test_a_chunk_that_is_one_frame_too_small_is_not_full_context() -> None:
    encoder, x, lengths = build(FIXED), features(FIXED, 1, 6), torch.tensor([6])
    full, smaller = (
        encoder(x, lengths, c, encoder.init_state(1, 0)).frames_BTD for c in (FULL_CONTEXT, Chunking(5, 0))
    )
    assert laws.difference(smaller, full) > laws.BROKEN


@pytest.mark.parametrize("frames", [10**6, 10**12])
def test_positions_have_no_limit(frames: int) -> None:
    """A stream that has run for hours computes what it computed after minutes, in memory of the same size."""
    encoder, size = build(FIXED), FIXED.chunking.size
    state = laws.join(states_after(encoder, FIXED, [3, 5]))
    late = state._replace(position=state.position + frames // size * size)
    x, lengths = features(FIXED, 2, 4 * size), torch.tensor([4 * size, 2 * size])
    early, long = (encoder(x, lengths, FIXED.chunking, start) for start in (state, late))
    assert laws.difference(long.frames_BTD[0], early.frames_BTD[0]) <= laws.BOUND
    assert laws.difference(long.frames_BTD[1, : 2 * size], early.frames_BTD[1, : 2 * size]) <= laws.BOUND
    assert torch.equal(long.state.position, late.position + lengths)
    assert [tensor.shape for tensor in laws.leaves(long.state)] == [tensor.shape for tensor in laws.leaves(state)]
    shifted = state._replace(position=state.position + frames // size * size + 1)
    assert (
        laws.difference(encoder(x, lengths, FIXED.chunking, shifted).frames_BTD[0], early.frames_BTD[0]) > laws.BROKEN
    )


def test_a_step_leaves_its_state_as_it_was() -> None:
    encoder, x = build(FIXED), features(FIXED, 1, 6)
    state = states_after(encoder, FIXED, [2])[0]
    before = laws.tree_map(torch.clone, state)
    encoder(x, torch.tensor([6]), FIXED.chunking, state)
    assert all(torch.equal(*pair) for pair in zip(laws.leaves(state), laws.leaves(before)))


# --- configuration


@pytest.mark.parametrize("layers, gamma, expected", [(6, None, 1.0), (7, None, 0.0), (7, 0.5, 0.5), (2, 0.0, 0.0)])
def test_last_gammas_of_residual_branches_depend_on_depth(layers: int, gamma: float | None, expected: float) -> None:
    encoder = Encoder(dataclasses.replace(FIXED.config, layers=layers, residual_gamma=gamma), 9)
    for layer in encoder.layers:
        last = (
            layer.feed_forward_in.op.reduce,
            layer.attention.op.out,
            layer.convolution.op.pointwise_out,
            layer.feed_forward_out.op.reduce,
        )
        assert all((branch.norm.weight == expected).all() for branch in last)
        assert (layer.feed_forward_in.op.expand.norm.weight == 1.0).all()


@pytest.mark.parametrize(
    "config, problem",
    [
        (EncoderConfig(dim=10, heads=4), "dim: 10 is not a multiple of heads: 4"),
        (EncoderConfig(layers=0), "layers: 0 must be at least 1"),
        (EncoderConfig(conv_kernel=0), "conv_kernel: 0 must be at least 1"),
        (EncoderConfig(dropout=1.0), r"dropout: 1.0 is not in [0, 1)"),
    ],
)
def test_wrong_configurations_are_named(config: EncoderConfig, problem: str) -> None:
    assert config.problems() == [problem] and EncoderConfig().problems() == []
