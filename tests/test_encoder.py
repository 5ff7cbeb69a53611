"""The encoder obeys split, batch and padding in training, streaming and evaluation, for random geometries."""

import copy
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import laws
import pytest
import torch
from conftest import randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wenet_fusion.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.models import encoder as encoder_module
from wenet_fusion.models.encoder import Encoder, EncoderConfig, EncoderState
from wenet_fusion.nn.norm import freeze_statistics, norms

pytestmark = pytest.mark.usefixtures("float64")


class Geometry(NamedTuple):
    config: EncoderConfig
    num_mel_bins: int
    chunking: Chunking
    seed: int


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    heads = draw(st.integers(1, 3))
    config = EncoderConfig(
        dim=heads * draw(st.integers(1, 4)), layers=draw(st.integers(1, 3)), heads=heads, feed_forward=draw(st.integers(1, 9)),
        conv_kernel=draw(st.integers(1, 6)), subsampling_channels=draw(st.integers(1, 3)), max_distance=draw(st.integers(1, 9)),
    )
    chunking = Chunking(draw(st.integers(1, 5)), draw(st.integers(0, 3)))
    return Geometry(config, draw(st.integers(7, 15)), chunking, draw(st.integers(0, 999)))


FIXED = Geometry(
    EncoderConfig(dim=8, layers=2, heads=2, feed_forward=12, conv_kernel=4, subsampling_channels=2, max_distance=4),
    num_mel_bins=9, chunking=Chunking(3, 2), seed=0,
)
FEATURES = 4  # per encoder frame


def build(geometry: Geometry) -> Encoder:
    torch.manual_seed(geometry.seed)
    return randomise(Encoder(geometry.config, geometry.num_mel_bins), geometry.seed).eval()


def encoder_op(encoder: Encoder, chunking: Chunking) -> laws.Op:
    """Lengths count features, as the law wants them; the encoder counts its own frames."""

    def op(x: Tensor, lengths: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        out = encoder(x, lengths // FEATURES, chunking, state)
        assert torch.equal(out.lengths_B, lengths // FEATURES)
        return out.frames_BTD, out.state

    return op


def features(geometry: Geometry, rows: int, frames: int) -> Tensor:
    return laws.noise(geometry.seed, rows, frames * FEATURES, geometry.num_mel_bins)


def streams(encoder: Encoder, geometry: Geometry, chunks: list[int]) -> list[EncoderState]:
    """States of streams that have heard so many chunks each."""
    size, left = geometry.chunking
    states = []
    for row, count in enumerate(chunks):
        state = encoder.init_state(1, size * left)
        if count:
            x = laws.noise(1000 + row, 1, count * size * FEATURES, geometry.num_mel_bins)
            state = encoder(x, torch.tensor([count * size]), geometry.chunking, state).state
        states.append(state)
    return states


# --- split


@laws.random_geometries
@given(
    geometries(),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.integers(0, 4),
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
)
def test_split(geometry: Geometry, blocks: list[int], short: int, heard: list[int]) -> None:
    """Rows out of step, of different lengths, the last block short."""
    encoder, size = build(geometry), geometry.chunking.size
    cuts = [FEATURES * size * sum(blocks[: i + 1]) for i in range(len(blocks))]
    frames = size * sum(blocks) + short % size
    lengths = torch.tensor([FEATURES * max(1, frames - row * (short + 1)) for row in range(len(heard))])
    state = laws.join(streams(encoder, geometry, heard))
    x = features(geometry, len(heard), frames)
    edges = cuts if short % size else cuts[:-1]
    assert laws.split(encoder_op(encoder, geometry.chunking), state, x, lengths, edges) <= laws.BOUND


def zero_oldest(cache: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(cache[:, :, :1]), cache[:, :, 1:]], dim=2)


def in_layers(change: Callable[..., laws.Tree]) -> Callable[[EncoderState, EncoderState], EncoderState]:
    return lambda old, new: new._replace(layers=[change(layer) for layer in new.layers])


SEEDED_BUGS = {
    "position not advanced": lambda old, new: new._replace(position=old.position),
    "position one frame ahead": lambda old, new: new._replace(position=new.position + 1),
    "oldest cached frame lost": in_layers(lambda l: l._replace(keys=zero_oldest(l.keys), values=zero_oldest(l.values))),
    "cache one frame late": in_layers(lambda l: l._replace(keys=l.keys.roll(1, dims=2), values=l.values.roll(1, dims=2))),
    "convolution one frame short": in_layers(lambda l: l._replace(conv=zero_oldest(l.conv))),
    "subsampling forgotten": lambda old, new: new._replace(subsampling=old.subsampling),
    "one layer's state for all": lambda old, new: new._replace(layers=[new.layers[0] for _ in new.layers]),
}


@pytest.mark.parametrize("bug", list(SEEDED_BUGS))
def test_split_detects(bug: str) -> None:
    encoder, (size, left) = build(FIXED), FIXED.chunking
    x, state = features(FIXED, 1, 4 * size), encoder.init_state(1, size * left)
    op, edges = encoder_op(encoder, FIXED.chunking), [FEATURES * size * i for i in (1, 2, 3)]
    lengths = torch.tensor([x.size(1)])
    assert laws.split(op, state, x, lengths, edges) <= laws.BOUND
    assert laws.split(laws.forgetful(op, SEEDED_BUGS[bug]), state, x, lengths, edges) > laws.BROKEN


@pytest.mark.parametrize("cached", [0, 3, 5])
def test_split_detects_a_cache_that_is_too_short(cached: int) -> None:
    """One chunk of left context is missing, or one frame of it."""
    encoder, size = build(FIXED), FIXED.chunking.size
    x = features(FIXED, 1, 4 * size)
    op, edges = encoder_op(encoder, FIXED.chunking), [FEATURES * size * i for i in (1, 2, 3)]
    assert laws.split(op, encoder.init_state(1, cached), x, torch.tensor([x.size(1)]), edges) > laws.BROKEN


def test_split_detects_a_cut_inside_a_chunk() -> None:
    encoder, (size, left) = build(FIXED), FIXED.chunking
    x, op = features(FIXED, 1, 4 * size), encoder_op(encoder, FIXED.chunking)
    assert laws.split(op, encoder.init_state(1, size * left), x, torch.tensor([x.size(1)]), [FEATURES * 4]) > laws.BROKEN


# --- batch


@laws.random_geometries
@given(geometries(), st.lists(st.tuples(st.integers(0, 4), st.integers(1, 12)), min_size=2, max_size=4))
def test_batch(geometry: Geometry, heard_and_frames: list[tuple[int, int]]) -> None:
    encoder = build(geometry)
    states = streams(encoder, geometry, [heard for heard, _ in heard_and_frames])
    xs = [features(geometry._replace(seed=row), 1, frames) for row, (_, frames) in enumerate(heard_and_frames)]
    assert laws.batch(encoder_op(encoder, geometry.chunking), laws.join, xs, states) <= laws.BOUND


def test_batch_detects_rows_that_share_a_position() -> None:
    encoder = build(FIXED)
    xs, states = [features(FIXED, 1, 6), features(FIXED, 1, 6)], streams(encoder, FIXED, [3, 1])

    def one_clock(rows: list[EncoderState]) -> EncoderState:
        joined = laws.join(rows)
        return joined._replace(position=joined.position[:1].expand_as(joined.position))

    op = encoder_op(encoder, FIXED.chunking)
    assert laws.batch(op, laws.join, xs, states) <= laws.BOUND
    assert laws.batch(op, one_clock, xs, states) > laws.BROKEN


def test_batch_detects_a_norm_over_neighbours() -> None:
    encoder = build(FIXED)
    for norm in norms(encoder):
        norm.train()
    xs, states = [features(FIXED, 1, 6), features(FIXED, 1, 9)], streams(encoder, FIXED, [0, 0])
    assert laws.batch(encoder_op(encoder, FIXED.chunking), laws.join, xs, states) > laws.BROKEN


# --- padding


def measured(encoder: Encoder, lengths_B: Tensor, chunking: Chunking, training: bool) -> Callable[[Tensor], laws.Tree]:
    """Valid outputs, statistics and all gradients; dropout draws the same numbers each time."""

    def measure(x: Tensor) -> laws.Tree:
        model = copy.deepcopy(encoder).train(training)
        torch.manual_seed(0)
        out = model(x, lengths_B, chunking, model.init_state(x.size(0), 0)).frames_BTD
        kept = laws.valid(out, lengths_B, out.size(1))
        return [kept, laws.statistics(model), laws.gradients(kept[0].square().sum(), model)]

    return measure


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@settings(laws.random_geometries, max_examples=8)
@given(geometries(), st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(lambda found: sum(found) > 1), st.booleans())
def test_padding(training: bool, geometry: Geometry, lengths: list[int], full: bool) -> None:
    lengths_B, chunking = torch.tensor(lengths), FULL_CONTEXT if full else geometry.chunking
    x = features(geometry, len(lengths), max(lengths) + 2)
    measure = measured(build(geometry), lengths_B, chunking, training)
    assert laws.padding(measure, x, lengths_B * FEATURES) <= laws.BOUND


LENGTHS = torch.tensor([7, 2, 0])


def test_padding_detects_statistics_that_forget_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = measured(build(FIXED), LENGTHS, FULL_CONTEXT, training=True)
    monkeypatch.setattr(encoder_module, "valid_frames", lambda lengths, frames: torch.arange(lengths.numel() * frames))
    assert laws.padding(measure, features(FIXED, 3, 8), LENGTHS * FEATURES) > laws.BROKEN


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_padding_detects_garbage_that_is_not_reset(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = measured(build(FIXED), LENGTHS, FULL_CONTEXT, training)
    monkeypatch.setattr(encoder_module, "frame_mask", lambda lengths, frames: torch.ones(len(lengths), frames, dtype=torch.bool))
    assert laws.padding(measure, features(FIXED, 3, 8), LENGTHS * FEATURES) > laws.BROKEN


def test_padding_detects_frames_seen_beyond_the_end() -> None:
    encoder = build(FIXED)

    def measure(x: Tensor) -> laws.Tree:
        everything = torch.full((3,), x.size(1) // FEATURES)
        out = encoder(x, everything, FULL_CONTEXT, encoder.init_state(3, 0)).frames_BTD
        return laws.valid(out, LENGTHS, out.size(1))

    assert laws.padding(measure, features(FIXED, 3, 8), LENGTHS * FEATURES, garbage=[7.0]) > laws.BROKEN


def test_training_with_frozen_statistics_equals_evaluation() -> None:
    """Packed rows in training and padded rows in evaluation are one computation."""
    geometry = FIXED._replace(config=dataclasses.replace(FIXED.config, dropout=0.0))
    encoder, x = build(geometry), features(FIXED, 3, 8)
    freeze_statistics(encoder)
    outs = [
        encoder.train(training)(x, LENGTHS, FIXED.chunking, encoder.init_state(3, 0)).frames_BTD for training in (True, False)
    ]
    assert laws.difference(laws.valid(outs[0], LENGTHS, 8), laws.valid(outs[1], LENGTHS, 8)) <= laws.BOUND


# --- caches and context


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
    assert laws.difference(encoder(x, lengths, FIXED.chunking, encoder.init_state(1, 6)).frames_BTD, target) > laws.BROKEN


@laws.random_geometries
@given(geometries(), st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
def test_full_context_is_one_chunk_larger_than_the_utterance(geometry: Geometry, frames: int, larger: int, left: int) -> None:
    encoder, x, lengths = build(geometry), features(geometry, 1, frames), torch.tensor([frames])
    full, one = (
        encoder(x, lengths, chunking, encoder.init_state(1, 0)).frames_BTD
        for chunking in (FULL_CONTEXT, Chunking(frames + larger, left))
    )
    assert laws.difference(one, full) <= laws.BOUND


def test_a_chunk_that_is_one_frame_too_small_is_not_full_context() -> None:
    encoder, x, lengths = build(FIXED), features(FIXED, 1, 6), torch.tensor([6])
    full, smaller = (encoder(x, lengths, c, encoder.init_state(1, 0)).frames_BTD for c in (FULL_CONTEXT, Chunking(5, 0)))
    assert laws.difference(smaller, full) > laws.BROKEN


@pytest.mark.parametrize("frames", [10**6, 10**12])
def test_positions_have_no_limit(frames: int) -> None:
    """A stream that has run for hours computes what it computed after minutes, in memory of the same size."""
    encoder, size = build(FIXED), FIXED.chunking.size
    state = laws.join(streams(encoder, FIXED, [3, 5]))
    late = state._replace(position=state.position + frames // size * size)
    x, lengths = features(FIXED, 2, 4 * size), torch.tensor([4 * size, 2 * size])
    early, long = (encoder(x, lengths, FIXED.chunking, start) for start in (state, late))
    assert laws.difference(long.frames_BTD[0], early.frames_BTD[0]) <= laws.BOUND
    assert laws.difference(long.frames_BTD[1, : 2 * size], early.frames_BTD[1, : 2 * size]) <= laws.BOUND
    assert torch.equal(long.state.position, late.position + lengths)
    assert [tensor.shape for tensor in laws.leaves(long.state)] == [tensor.shape for tensor in laws.leaves(state)]
    shifted = state._replace(position=state.position + frames // size * size + 1)
    assert laws.difference(encoder(x, lengths, FIXED.chunking, shifted).frames_BTD[0], early.frames_BTD[0]) > laws.BROKEN


def test_a_step_leaves_its_state_as_it_was() -> None:
    encoder, x = build(FIXED), features(FIXED, 1, 6)
    state = streams(encoder, FIXED, [2])[0]
    before = laws.tree_map(torch.clone, state)
    encoder(x, torch.tensor([6]), FIXED.chunking, state)
    assert all(torch.equal(*pair) for pair in zip(laws.leaves(state), laws.leaves(before)))


# --- configuration


@pytest.mark.parametrize("layers, gamma, expected", [(6, None, 1.0), (7, None, 0.0), (7, 0.5, 0.5), (2, 0.0, 0.0)])
def test_last_gammas_of_residual_branches_depend_on_depth(layers: int, gamma: float | None, expected: float) -> None:
    encoder = Encoder(dataclasses.replace(FIXED.config, layers=layers, residual_gamma=gamma), 9)
    for layer in encoder.layers:
        last = (layer.feed_forward_in.reduce, layer.attention.out, layer.convolution.pointwise_out, layer.feed_forward_out.reduce)
        assert all((branch.norm.weight == expected).all() for branch in last)
        assert (layer.feed_forward_in.expand.norm.weight == 1.0).all()


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
