"""The moving average of the weights: its definition, its uses, and resuming it."""

import json

import pytest
import torch
from conftest import tiny_recipe
from support.model.runs import differences, run_until, start, with_training
from support.model.tones import lively

from wenet_fusion.model.layers.norm import MaskedBatchNorm
from wenet_fusion.training.optimisation.weight_average import WeightAverage
from wenet_fusion.training.state.checkpoint import load_model, load_training_state


@pytest.fixture(scope="module")
def recipe(tiny_units):
    recipe = lively(tiny_recipe(tiny_units))
    return with_training(recipe, max_steps=6, max_batch_rows=4, save_interval_steps=2, average_decay=0.9)


def test_the_average_equals_its_definition() -> None:
    norm = MaskedBatchNorm(3).double()
    average = WeightAverage(norm, decay=0.4)
    expected = {name: value.clone() for name, value in norm.state_dict().items() if value.is_floating_point()}
    for n in range(1, 8):
        with torch.no_grad():
            norm.weight += n
        norm(torch.randn(5, 3, dtype=torch.float64))
        average.update(n)
        keep = min(0.4, (1 + n) / (10 + n))
        current = norm.state_dict()
        expected = {name: keep * value + (1 - keep) * current[name] for name, value in expected.items()}
    assert set(expected) == {"weight", "bias", "running_mean", "running_var"}
    for name, value in expected.items():
        assert torch.allclose(average.average[name], value, rtol=1e-12, atol=1e-12), name
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with average.in_place():
        assert all(torch.equal(norm.state_dict()[name], average.average[name]) for name in expected)
    assert differences(dict(norm.state_dict()), before) == []


def test_the_average_is_validated_and_saved_and_does_not_change_training(recipe, corpus, tmp_path) -> None:
    for name, decay in (("plain", 0.0), ("averaged", 0.9)):
        start(with_training(recipe, average_decay=decay), corpus, tmp_path / name).run()
    plain, averaged = (load_training_state(tmp_path / name) for name in ("plain", "averaged"))
    assert differences(plain.weights, averaged.weights) == [] and plain.average == {}
    saved = load_model(tmp_path / "averaged/step_000006.pt")
    for name, value in averaged.average.items():
        assert torch.equal(saved.weights[name], value)
    assert not torch.equal(saved.weights["ctc.linear.weight"], averaged.weights["ctc.linear.weight"])
    lines = [json.loads(line) for line in (tmp_path / "averaged/train_log.jsonl").read_text().splitlines()]
    losses = {line["dev_loss"] for line in lines if line["kind"] == "epoch" and line["step"] == 6}
    other = load_model(tmp_path / "plain/step_000006.pt").dev_loss
    assert saved.dev_loss == pytest.approx(losses.pop(), rel=1e-4) and saved.dev_loss != other


def test_a_killed_run_goes_on_with_its_average(recipe, corpus, tmp_path) -> None:
    start(recipe, corpus, tmp_path / "whole").run()
    run_until(start(recipe, corpus, tmp_path / "run"), 4)
    start(recipe, corpus, tmp_path / "run").run()
    left, right = (load_training_state(tmp_path / name) for name in ("whole", "run"))
    assert differences(left, right) == []
