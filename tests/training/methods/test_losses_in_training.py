"""Runs with CR-CTC, intermediate CTC and a delay penalty: their views, their log, and resuming them."""

import dataclasses
import json

import pytest
import torch
from conftest import tiny_recipe
from support.model.runs import differences, run_until, start, with_training
from support.model.tones import lively

from wenet_fusion.config import to_yaml
from wenet_fusion.export.flow import export_model
from wenet_fusion.model.losses import LossConfig
from wenet_fusion.trained_model import load_trained
from wenet_fusion.training.state.checkpoint import load_training_state

METHODS = LossConfig(
    consistency_weight=0.2,
    consistency_warmup_steps=3,
    intermediate_layers=(1,),
    intermediate_heads="own",
    delay_penalty=0.01,
)


@pytest.fixture(scope="module")
def recipe(tiny_units):
    recipe = lively(tiny_recipe(tiny_units))
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, loss=METHODS))
    return with_training(recipe, max_steps=5, max_batch_rows=4, max_batch_seconds=60.0, save_interval_steps=2)


@pytest.fixture(scope="module")
def whole(recipe, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    start(recipe, corpus, folder).run()
    return folder


def test_the_views_differ_and_the_first_is_that_of_a_run_with_one(recipe, corpus, tmp_path):
    seen = []
    one_view = dataclasses.replace(METHODS, consistency_weight=0.0)
    plain = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, loss=one_view))
    for name, chosen in (("two", recipe), ("one", plain)):
        trainer = start(with_training(chosen, max_steps=1), corpus, tmp_path / name)
        forward = trainer.model.forward
        trainer.model.forward = lambda *batch: seen.append((batch[5], batch[7])) or forward(*batch)
        trainer.run()
    (both, weight), (single, none) = seen
    first, second = both.chunk(2)
    assert torch.equal(first, single) and not torch.equal(first, second)
    assert weight == pytest.approx(0.2 / 3) and none == 0


def test_losses_are_logged(whole):
    lines = [json.loads(line) for line in (whole / "train_log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == 5 and all(line["consistency_loss"] > 0 and line["intermediate_loss"] > 0 for line in steps)


def test_a_killed_run_goes_on_bit_for_bit(recipe, corpus, whole, tmp_path):
    run_until(start(recipe, corpus, tmp_path / "run"), 4)
    start(recipe, corpus, tmp_path / "run").run()
    assert differences(load_training_state(whole), load_training_state(tmp_path / "run")) == []


def test_own_heads_are_not_exported(whole, tmp_path):
    trained = load_trained(whole / "step_000005.pt")
    assert "intermediate_heads: own" in to_yaml(trained.config) and len(trained.model.intermediate_heads) == 1
    with_heads = export_model(trained, tmp_path / "with.zip")
    trained.model.intermediate_heads = torch.nn.ModuleList()
    export_model(trained, tmp_path / "without.zip")
    sizes = [(tmp_path / name).stat().st_size for name in ("with.zip", "without.zip")]
    assert with_heads and abs(sizes[0] - sizes[1]) < 200
