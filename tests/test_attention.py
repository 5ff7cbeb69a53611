"""Self-attention equals its definition, and positions are clipped relative distances. (Its cache: test_encoder.py.)"""

import math

import laws
import pytest
import torch
from conftest import randomise
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wenet_fusion.nn.attention import CachedAttention, distance_index

pytestmark = pytest.mark.usefixtures("float64")


def attention(dim: int, heads: int, max_distance: int) -> CachedAttention:
    torch.manual_seed(0)
    return randomise(CachedAttention(dim, heads, max_distance, dropout=0.0, gamma=1.0)).eval()


def run(model: CachedAttention, x_BTD: Tensor, visible_BTS: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    max_distance = model.position_bias.size(0) // 2
    distance_TS = distance_index(visible_BTS.size(1), visible_BTS.size(2), max_distance, x_BTD)
    return model(x_BTD.flatten(0, 1), None, visible_BTS, distance_TS, keys, values).y_ND.view(x_BTD.shape)


def by_definition(model: CachedAttention, x_BTD: Tensor, visible_BTS: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Query by query and head by head."""
    batch, frames, dim = x_BTD.shape
    heads, cached = model.heads, keys.size(2)
    width, reach = dim // heads, model.position_bias.size(0) // 2
    out = torch.zeros_like(x_BTD)
    for b in range(batch):
        normed = model.qkv.norm(model.qkv.linear(x_BTD[b]))
        query, key, value = normed[:, :dim], normed[:, dim : 2 * dim], normed[:, 2 * dim :]
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            all_keys = torch.cat([keys[b, h], key[:, part]])
            all_values = torch.cat([values[b, h], value[:, part]])
            for t in range(frames):
                seen = visible_BTS[b, t].nonzero().flatten().tolist()
                scores = []
                for s in seen:
                    distance = max(-reach, min(reach, s - cached - t))
                    bias = model.position_bias[distance + reach, h]
                    scores.append(query[t, part] @ all_keys[s] / math.sqrt(width) + bias)
                weights = torch.stack(scores).softmax(0)
                out[b, t, part] = sum(weight * all_values[s] for weight, s in zip(weights, seen))
    return model.out(out.flatten(0, 1)).view(x_BTD.shape)


@laws.random_geometries
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(0, 5), st.integers(1, 6), st.integers(0, 99)
)
def test_equals_its_definition(heads: int, width: int, frames: int, cached: int, reach: int, seed: int) -> None:
    dim = heads * width
    model, x = attention(dim, heads, reach), laws.noise(seed, 2, frames, dim)
    keys, values = laws.noise(seed + 1, 2, 2, heads, cached, width)
    visible = laws.noise(seed, 2, frames, cached + frames) > 0
    visible[:, :, -1] = True
    expected = by_definition(model, x, visible, keys, values)
    assert laws.difference(run(model, x, visible, keys, values), expected) <= laws.BOUND
    visible[:, :, -1] = False
    if visible.any(dim=2).all() and cached + frames > 1:
        assert laws.difference(run(model, x, visible, keys, values), expected) > laws.BROKEN, "a forgotten key is seen"


def test_a_query_that_sees_nothing_is_finite() -> None:
    model, empty = attention(4, 2, 3), torch.zeros(1, 2, 0, 2)
    assert run(model, laws.noise(0, 1, 3, 4), torch.zeros(1, 3, 3, dtype=torch.bool), empty, empty).isfinite().all()


@laws.random_geometries
@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 8))
def test_distance_index_equals_a_plain_loop(queries: int, cached: int, reach: int) -> None:
    expected = [
        [min(reach, max(-reach, s - (cached + t))) + reach for s in range(cached + queries)] for t in range(queries)
    ]
    assert distance_index(queries, cached + queries, reach, torch.zeros(())).tolist() == expected


def with_reach(model: CachedAttention, reach: int, repeat_ends: bool) -> CachedAttention:
    """The same model with a longer bias table: its ends repeated, or zeros there."""
    short = model.position_bias.size(0) // 2
    longer = attention(model.out.linear.out_features, model.heads, reach)
    table = torch.zeros_like(longer.position_bias)
    if repeat_ends:
        table[: reach - short], table[reach + short :] = model.position_bias[0], model.position_bias[-1]
    table[reach - short : reach + short + 1] = model.position_bias
    longer.load_state_dict({**model.state_dict(), "position_bias": table.detach()})
    return longer


def test_the_bias_is_clipped_beyond_its_reach() -> None:
    """Beyond the reach every distance counts as the largest: a longer table that repeats the ends says the same."""
    model, x, empty = attention(4, 2, 3), laws.noise(0, 1, 20, 4), torch.zeros(1, 2, 0, 2)
    everything = torch.ones(1, 20, 20, dtype=torch.bool)
    target = run(model, x, everything, empty, empty)
    assert laws.difference(run(with_reach(model, 30, True), x, everything, empty, empty), target) <= laws.BOUND
    assert laws.difference(run(with_reach(model, 30, False), x, everything, empty, empty), target) > laws.BROKEN
