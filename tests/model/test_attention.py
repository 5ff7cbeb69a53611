"""Self-attention equals its definition, and relative distances are clipped. The cache is tested in test_encoder.py."""

import math

import pytest
import torch
from conftest import randomise
from hypothesis import given
from hypothesis import strategies as st
from support.model import laws
from support.model.contexts import step_context
from torch import Tensor, nn

from wenet_fusion.model.layers.attention import MASKED, CachedAttention, Positions
from wenet_fusion.model.layers.layer_protocol import attention_bias
from wenet_fusion.model.layers.positions.position_bias import PositionBias, PrecomputedBias, distance_index

pytestmark = pytest.mark.usefixtures("float64")


def attention(dim: int, heads: int, positions: Positions = "bias") -> CachedAttention:
    torch.manual_seed(0)
    model = randomise(CachedAttention(dim, heads, dropout=0.0, gamma=1.0, positions=positions)).eval()
    if model.rel_pos is not None:
        nn.init.normal_(model.rel_pos.key_bias)
        nn.init.normal_(model.rel_pos.position_bias)
    return model


def bias_of(heads: int, max_distance: int, layers: int = 1) -> PositionBias:
    torch.manual_seed(0)
    bias = PositionBias(layers, heads, max_distance)
    nn.init.normal_(bias.table)
    return bias


def hide(visible_BTS: Tensor) -> Tensor:
    return torch.zeros(visible_BTS.shape).masked_fill(~visible_BTS, MASKED).unsqueeze(1)


def run(model: CachedAttention, bias: PositionBias, x_BTD: Tensor, visible_BTS: Tensor, cache: Tensor) -> Tensor:
    context = step_context(x_BTD.size(1), hide(visible_BTS), bias(visible_BTS.size(1), visible_BTS.size(2)).unbind(0))
    return model(x_BTD, [cache], context)[0]


def test_each_layer_adds_its_own_bias() -> None:
    biases_HTS = bias_of(heads=2, max_distance=4, layers=3)(5, 5).unbind(0)
    hidden_B1TS = torch.randn(2, 1, 5, 5)
    for layer, bias_HTS in enumerate(biases_HTS):
        added = attention_bias(step_context(5, hidden_B1TS, biases_HTS), layer)
        assert torch.equal(added, hidden_B1TS + bias_HTS)
    assert attention_bias(step_context(5, hidden_B1TS), 2) is hidden_B1TS


def by_definition(
    model: CachedAttention, table: Tensor, x_BTD: Tensor, visible_BTS: Tensor, cache_BCE: Tensor
) -> Tensor:
    """Compute attention query by query and head by head."""
    batch, frames, dim = x_BTD.shape
    cached, width, reach = cache_BCE.size(1), dim // model.heads, table.size(0) // 2
    out = torch.zeros_like(x_BTD)
    for b in range(batch):
        normed = model.qkv.norm(model.qkv.linear(x_BTD[b]))
        keys = torch.cat([cache_BCE[b, :, :dim], normed[:, dim : 2 * dim]])
        values = torch.cat([cache_BCE[b, :, dim:], normed[:, 2 * dim :]])
        for h in range(model.heads):
            part = slice(h * width, (h + 1) * width)
            for t in range(frames):
                seen = visible_BTS[b, t].nonzero().flatten().tolist()
                scores = []
                for s in seen:
                    distance = max(-reach, min(reach, s - cached - t))
                    scores.append(normed[t, part] @ keys[s, part] / math.sqrt(width) + table[distance + reach, h])
                weights = torch.stack(scores).softmax(0)
                out[b, t, part] = sum(weight * values[s, part] for weight, s in zip(weights, seen))
    return model.out(out.flatten(0, 1)).view(x_BTD.shape)


@laws.random_geometries
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(0, 5), st.integers(1, 6), st.integers(0, 99)
)
def test_equals_its_definition(heads: int, width: int, frames: int, cached: int, reach: int, seed: int) -> None:
    dim = heads * width
    model, bias, x = attention(dim, heads), bias_of(heads, reach), laws.noise(seed, 2, frames, dim)
    cache = laws.noise(seed + 1, 2, cached, 2 * dim)
    visible = laws.noise(seed, 2, frames, cached + frames) > 0
    visible[:, :, -1] = True
    expected = by_definition(model, bias.table, x, visible, cache)
    assert laws.difference(run(model, bias, x, visible, cache), expected) <= laws.BOUND
    visible[:, :, -1] = False
    if visible.any(dim=2).all() and cached + frames > 1:
        assert laws.difference(run(model, bias, x, visible, cache), expected) > laws.BROKEN, (
            "a missing key changes the output"
        )


def test_a_query_that_sees_nothing_is_finite() -> None:
    model, nothing = attention(4, 2), torch.zeros(1, 3, 3, dtype=torch.bool)
    assert run(model, bias_of(2, 3), laws.noise(0, 1, 3, 4), nothing, torch.zeros(1, 0, 8)).isfinite().all()


def test_position_products_equal_their_definition() -> None:
    model, x, positions = attention(4, 2, "rel_pos"), laws.noise(0, 1, 3, 4), laws.noise(1, 1, 3, 4)
    everything = hide(torch.ones(1, 3, 3, dtype=torch.bool))
    y = model(x, [torch.zeros(1, 0, 8)], step_context(3, everything, (), positions))[0][0]
    normed, rel_pos, out = model.qkv.norm(model.qkv.linear(x[0])), model.rel_pos, torch.zeros(3, 4)
    for h in range(2):
        part = slice(2 * h, 2 * h + 2)
        query, position = normed[:, part] / math.sqrt(2), rel_pos.project(positions[0])[:, part]
        scores = (query + rel_pos.key_bias[h]) @ normed[:, 4:8][:, part].T
        scores = scores + (query + rel_pos.position_bias[h]) @ position.T
        out[:, part] = scores.softmax(1) @ normed[:, 8:][:, part]
    assert laws.difference(y, model.out(out)) <= laws.BOUND


@laws.random_geometries
@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 8))
def test_distance_index_equals_a_plain_loop(queries: int, cached: int, reach: int) -> None:
    expected = [
        [min(reach, max(-reach, s - (cached + t))) + reach for s in range(cached + queries)] for t in range(queries)
    ]
    assert distance_index(queries, cached + queries, reach, torch.zeros(())).tolist() == expected


def with_reach(bias: PositionBias, reach: int, repeat_ends: bool) -> PositionBias:
    """Return the same bias with a longer table, which repeats the ends or has zeros there."""
    short, longer = bias.max_distance, PositionBias(bias.layers, bias.heads, reach)
    with torch.no_grad():
        if repeat_ends:
            longer.table[: reach - short], longer.table[reach + short :] = bias.table[0], bias.table[-1]
        longer.table[reach - short : reach + short + 1] = bias.table
    return longer


def test_the_bias_is_clipped_beyond_its_reach() -> None:
    """Distances beyond the table are clipped: a longer table that repeats the ends gives the same biases."""
    bias = bias_of(heads=2, max_distance=3, layers=2)
    assert bias(20, 25).shape == (2, 2, 20, 25)
    assert laws.difference(with_reach(bias, 30, True)(20, 25), bias(20, 25)) == 0
    assert laws.difference(with_reach(bias, 30, False)(20, 25), bias(20, 25)) > laws.BROKEN


def test_each_layer_and_head_has_a_column_of_the_table() -> None:
    bias = bias_of(heads=2, max_distance=3, layers=2)
    for layer, head in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert torch.equal(bias(1, 3)[layer, head, 0], bias.table[1:4, 2 * layer + head])


@pytest.mark.parametrize("queries, keys", [(4, 12), (8, 16), (4, 16), (3, 12), (1, 1)])
def test_precomputed_biases_are_the_learned_ones(queries: int, keys: int) -> None:
    bias = bias_of(heads=2, max_distance=3, layers=2)
    ready = PrecomputedBias(bias, [(4, 12), (8, 16)])
    assert torch.equal(ready(queries, keys), bias(queries, keys))
    with torch.no_grad():
        bias.table.zero_()
    assert bool(ready(queries, keys).any()) == ((queries, keys) in [(4, 12), (8, 16)]), "other biases are not"
