"""The encoder obeys the laws split, batch and padding in training, streaming and evaluation, for random geometries."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.model import laws
from support.model.encoders import FEATURES, FIXED, Geometry, build, encoder_op, features, geometries, states_after
from torch import Tensor

from wenet_fusion.model import encoder as encoder_module
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.model.encoder import Encoder
from wenet_fusion.model.encoder_state import EncoderState
from wenet_fusion.model.layers.norm import freeze_statistics, norms

pytestmark = pytest.mark.usefixtures("float64")


# --- split


@laws.random_geometries
@given(
    geometries(),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.integers(0, 4),
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
)
def test_split(geometry: Geometry, blocks: list[int], short: int, past: list[int]) -> None:
    """Rows are out of step and of different lengths; the last block is short."""
    encoder, size = build(geometry), geometry.chunking.size
    cuts = [FEATURES * size * sum(blocks[: i + 1]) for i in range(len(blocks))]
    frames = size * sum(blocks) + short % size
    lengths = torch.tensor([FEATURES * max(1, frames - row * (short + 1)) for row in range(len(past))])
    state = laws.join(states_after(encoder, geometry, past))
    x = features(geometry, len(past), frames)
    edges = cuts if short % size else cuts[:-1]
    assert laws.split(encoder_op(encoder, geometry.chunking), state, x, lengths, edges) <= laws.BOUND


def zero_oldest(cache: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(cache[:, :1]), cache[:, 1:]], dim=1)


def in_layers(change: Callable[..., laws.Tree]) -> Callable[[EncoderState, EncoderState], EncoderState]:
    return lambda old, new: new._replace(layers=[change(*layer) for layer in new.layers])


SEEDED_BUGS = {
    "position not advanced": lambda old, new: new._replace(position=old.position),
    "position one frame ahead": lambda old, new: new._replace(position=new.position + 1),
    "oldest cached frame lost": in_layers(lambda keys_values, conv: [zero_oldest(keys_values), conv]),
    "cache one frame late": in_layers(lambda keys_values, conv: [keys_values.roll(1, dims=1), conv]),
    "convolution one frame short": in_layers(lambda keys_values, conv: [keys_values, zero_oldest(conv)]),
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
    """Seeded bug: one chunk of left context is missing, or one frame of it."""
    encoder, size = build(FIXED), FIXED.chunking.size
    x = features(FIXED, 1, 4 * size)
    op, edges = encoder_op(encoder, FIXED.chunking), [FEATURES * size * i for i in (1, 2, 3)]
    assert laws.split(op, encoder.init_state(1, cached), x, torch.tensor([x.size(1)]), edges) > laws.BROKEN


def test_split_detects_a_cut_inside_a_chunk() -> None:
    encoder, (size, left) = build(FIXED), FIXED.chunking
    x, op = features(FIXED, 1, 4 * size), encoder_op(encoder, FIXED.chunking)
    assert (
        laws.split(op, encoder.init_state(1, size * left), x, torch.tensor([x.size(1)]), [FEATURES * 4]) > laws.BROKEN
    )


# --- batch


@laws.random_geometries
@given(geometries(), st.lists(st.tuples(st.integers(0, 4), st.integers(1, 12)), min_size=2, max_size=4))
def test_batch(geometry: Geometry, chunks_and_frames: list[tuple[int, int]]) -> None:
    encoder = build(geometry)
    states = states_after(encoder, geometry, [chunks for chunks, _ in chunks_and_frames])
    xs = [features(geometry._replace(seed=row), 1, frames) for row, (_, frames) in enumerate(chunks_and_frames)]
    assert laws.batch(encoder_op(encoder, geometry.chunking), laws.join, xs, states) <= laws.BOUND


def test_batch_detects_rows_that_share_a_position() -> None:
    encoder = build(FIXED)
    xs, states = [features(FIXED, 1, 6), features(FIXED, 1, 6)], states_after(encoder, FIXED, [3, 1])

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
    xs, states = [features(FIXED, 1, 6), features(FIXED, 1, 9)], states_after(encoder, FIXED, [0, 0])
    assert laws.batch(encoder_op(encoder, FIXED.chunking), laws.join, xs, states) > laws.BROKEN


# --- padding


def measured(encoder: Encoder, lengths_B: Tensor, chunking: Chunking, training: bool) -> Callable[[Tensor], laws.Tree]:
    """Compare valid outputs, statistics and all gradients; dropout draws the same numbers each time."""

    def measure(x: Tensor) -> laws.Tree:
        model = copy.deepcopy(encoder).train(training)
        torch.manual_seed(0)
        out = model(x, lengths_B, chunking, model.init_state(x.size(0), 0)).frames_BTD
        kept = laws.valid(out, lengths_B, out.size(1))
        return [kept, laws.statistics(model), laws.gradients(kept[0].square().sum(), model)]

    return measure


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@settings(laws.random_geometries, max_examples=8)
@given(
    geometries(),
    st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(lambda found: sum(found) > 1),
    st.integers(0, 2),
    st.booleans(),
)
def test_padding(training: bool, geometry: Geometry, lengths: list[int], spare: int, full: bool) -> None:
    lengths_B, chunking = torch.tensor(lengths), FULL_CONTEXT if full else geometry.chunking
    x = features(geometry, len(lengths), max(lengths) + spare)
    measure = measured(build(geometry), lengths_B, chunking, training)
    assert laws.padding(measure, x, lengths_B * FEATURES) <= laws.BOUND


LENGTHS = torch.tensor([7, 2, 0])


@pytest.mark.parametrize("too_many", [1, 100])
def test_padding_detects_statistics_over_padding(too_many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded bug: the mask is missing, or one frame too long."""
    measure = measured(build(FIXED), LENGTHS, FULL_CONTEXT, training=True)
    right = encoder_module.valid_frames
    monkeypatch.setattr(encoder_module, "valid_frames", lambda lengths, frames: right(lengths + too_many, frames))
    assert laws.padding(measure, features(FIXED, 3, 7), LENGTHS * FEATURES) > laws.BROKEN


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_padding_detects_garbage_that_is_not_reset(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = measured(build(FIXED), LENGTHS, FULL_CONTEXT, training)
    monkeypatch.setattr(
        encoder_module, "frame_mask", lambda lengths, frames: torch.ones(len(lengths), frames, dtype=torch.bool)
    )
    assert laws.padding(measure, features(FIXED, 3, 8), LENGTHS * FEATURES) > laws.BROKEN


def test_padding_detects_frames_seen_beyond_the_end() -> None:
    encoder = build(FIXED)

    def measure(x: Tensor) -> laws.Tree:
        everything = torch.full((3,), x.size(1) // FEATURES)
        out = encoder(x, everything, FULL_CONTEXT, encoder.init_state(3, 0)).frames_BTD
        return laws.valid(out, LENGTHS, out.size(1))

    assert laws.padding(measure, features(FIXED, 3, 8), LENGTHS * FEATURES, garbage=[7.0]) > laws.BROKEN


def test_training_with_frozen_statistics_equals_evaluation() -> None:
    """Packed rows in training and padded rows in evaluation give the same results."""
    geometry = FIXED._replace(config=dataclasses.replace(FIXED.config, dropout=0.0))
    encoder, x = build(geometry), features(FIXED, 3, 8)
    freeze_statistics(encoder)
    outs = [
        encoder.train(training)(x, LENGTHS, FIXED.chunking, encoder.init_state(3, 0)).frames_BTD
        for training in (True, False)
    ]
    assert laws.difference(laws.valid(outs[0], LENGTHS, 8), laws.valid(outs[1], LENGTHS, 8)) <= laws.BOUND
