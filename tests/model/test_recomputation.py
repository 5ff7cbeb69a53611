"""Recomputing activations gives the same gradients, statistics and dropout, bit for bit, with less memory."""

import copy
import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from conftest import randomise, tiny_recipe
from support.model import laws

from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.layers import recomputation
from wenet_fusion.model.layers.norm import estimating_statistics, norms
from wenet_fusion.model.layers.recomputation import RecomputedChain, recompute_activations

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from parts.training.training_setup import saved_bytes

pytestmark = pytest.mark.usefixtures("float64")

LENGTHS = torch.tensor([5000, 2561, 3200])
TOKENS, TOKEN_LENGTHS = torch.tensor([[3, 4, 5], [6, 0, 0], [7, 7, 0]]), torch.tensor([3, 1, 2])


def asr_model(norm: str = "fusion") -> AsrModel:
    config = tiny_recipe(Path()).model
    encoder = dataclasses.replace(config.encoder, dropout=0.2, layers=3, norm=norm)
    torch.manual_seed(0)
    model = AsrModel(dataclasses.replace(config, encoder=encoder), 13)
    randomise(model, 0)
    return model.train()


def update(model: AsrModel) -> laws.Tree:
    torch.manual_seed(7)
    losses = model(0.1 * laws.noise(0, 3, 5000), LENGTHS, TOKENS, TOKEN_LENGTHS, Chunking(4, 2))
    return [*losses, *laws.gradients(losses.total, model), *laws.statistics(model), torch.rand(1)]


@pytest.mark.parametrize("norm", ["fusion", "batch", "layer"])
def test_an_update_keeps_every_bit(norm: str) -> None:
    model = asr_model(norm)
    recomputing = copy.deepcopy(model)
    recompute_activations(recomputing)
    assert all(type(layer) is RecomputedChain for layer in recomputing.encoder.layers)
    expected, values = update(model), update(recomputing)
    assert len(values) == len(expected)
    assert all(torch.equal(value, target) for value, target in zip(values, expected))
    assert not any(norm.recomputing for norm in norms(recomputing))


def test_the_law_sees_statistics_that_move_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = asr_model(), asr_model()
    expected = update(model)
    monkeypatch.setattr(recomputation, "_passes", _both_passes_alike)
    recompute_activations(other)
    assert laws.difference(update(other), expected) > laws.BROKEN


def _both_passes_alike(layers):
    return torch.enable_grad(), torch.enable_grad()


def test_only_the_inputs_of_layers_are_kept() -> None:
    def step(model: AsrModel) -> None:
        kept.append(model.encode(0.1 * laws.noise(0, 3, 5000), LENGTHS, Chunking(4, 2)))

    kept, model = [], asr_model()
    before = saved_bytes(model, lambda: step(model))
    recompute_activations(model)
    assert 0 < saved_bytes(model, lambda: step(model)) < 0.6 * before


def test_statistics_are_estimated_as_before() -> None:
    """Without gradients nothing is recomputed."""
    values = []
    for recompute in (False, True):
        model = asr_model()
        if recompute:
            recompute_activations(model)
        with torch.no_grad(), estimating_statistics(model):
            for seed in (1, 2):
                model.encode(0.1 * laws.noise(seed, 3, 5000), LENGTHS, Chunking(4, 2))
        values.append(laws.statistics(model))
    assert all(torch.equal(*pair) for pair in zip(*values))
