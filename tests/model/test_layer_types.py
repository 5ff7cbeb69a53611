"""The tables of activations and layer types; states of layers as flat lists and as WeNet's caches."""

import dataclasses

import pytest
import torch
from support.model import laws
from support.model.encoders import FIXED, build, encoder_op, features, states_after
from torch import Tensor, nn

from wenet_fusion.export.wenet_methods import WenetCaches
from wenet_fusion.model.asr_model import ModelConfig
from wenet_fusion.model.encoder import Encoder
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.encoder_state import flatten, part_sizes, unflatten
from wenet_fusion.model.layers.activation import ACTIVATIONS, activation_cost
from wenet_fusion.model.layers.attention import CachedAttention
from wenet_fusion.model.layers.layer_types import LAYER_TYPES

pytestmark = pytest.mark.usefixtures("float64")


def test_unknown_names_are_listed_with_a_suggestion() -> None:
    config = ModelConfig(encoder=EncoderConfig(activation="gleu", layer="conformers"))
    known, types = ", ".join(ACTIVATIONS), ", ".join(LAYER_TYPES)
    assert config.encoder.problems() == [
        f"activation: 'gleu' is unknown; choose one of {known} (did you mean gelu?)",
    ]
    assert config.problems() == [
        f"encoder.layer: 'conformers' is unknown; choose one of {types} (did you mean conformer?)",
    ]
    with pytest.raises(ValueError, match="layer: 'conformers' is unknown; choose one of conformer"):
        Encoder(config.encoder, 80)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_every_activation_is_used_and_streams(name: str) -> None:
    geometry = FIXED._replace(config=dataclasses.replace(FIXED.config, activation=name))
    encoder, (size, left) = build(geometry), geometry.chunking
    kind = type(ACTIVATIONS[name]())
    count = 3 * geometry.config.layers  # two feed-forward branches and the convolution
    assert sum(type(module) is kind for module in encoder.modules()) == count + (2 if name == "relu" else 0)
    assert (activation_cost(name, encoder) == "") == (name == "relu")
    assert name == "relu" or f" adds {count} operators " in activation_cost(name, encoder)
    x, edges = features(geometry, 1, 3 * size), [4 * size, 8 * size]
    state = encoder.init_state(1, size * left)
    assert laws.split(encoder_op(encoder, geometry.chunking), state, x, torch.tensor([x.size(1)]), edges) <= laws.BOUND


def test_a_state_round_trips_through_its_flat_list_and_wenets_caches() -> None:
    encoder, (size, left) = build(FIXED), FIXED.chunking
    (state,) = states_after(encoder, FIXED, [4])
    flat = flatten(state)
    assert len(flat) == 1 + 2 + 2 * FIXED.config.layers
    assert laws.difference(unflatten(flat, part_sizes(encoder.init_state(1, 1))), state) == 0
    caches = WenetCaches(encoder)
    assert laws.difference(caches.unpack(state.position, *caches.pack(state, size * left)), state) == 0


class WideCache(CachedAttention):
    """Return a layer that caches more than WeNet's runtimes can store."""

    def init_state(self, batch: int, cached: int, zero: Tensor) -> list[Tensor]:
        return [zero.expand(batch, cached, 3 * self.dim)]


def test_a_cache_that_wenet_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_wide(config: EncoderConfig, layer: int) -> nn.Module:
        return WideCache(config.dim, config.heads)

    monkeypatch.setitem(LAYER_TYPES, "wide", build_wide)
    encoder = Encoder(dataclasses.replace(FIXED.config, layer="wide"), 9)
    with pytest.raises(ValueError, match=r"WeNet's runtimes cache \(frames, 16\) numbers, a layer caches \[1, 24\]"):
        WenetCaches(encoder)
