"""A frozen part of the encoder keeps every bit while it is frozen, and trains afterwards; also with several ranks."""

import dataclasses

import pytest
import torch
from conftest import tiny_recipe
from support.model.rank_processes import run_ranks
from support.model.runs import differences, run_until, start, with_training
from support.model.tones import lively

from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.layers.norm import norms
from wenet_fusion.ranks import Placement, Ranks
from wenet_fusion.recipe import build_trainer
from wenet_fusion.training.optimisation.freezing import FreezeConfig, freeze_for
from wenet_fusion.training.state.checkpoint import load_training_state


@pytest.fixture(scope="module")
def recipe(tiny_units):
    return with_training(
        lively(tiny_recipe(tiny_units)), max_steps=5, max_batch_rows=4, max_batch_seconds=60.0, save_interval_steps=2
    )


def states(trainer):
    """Train, and return weights and statistics before the first update and after each update."""
    seen, log = [{n: v.clone() for n, v in trainer.model.state_dict().items()}], trainer.log.step

    def recorded(*entry):
        seen.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        log(*entry)

    trainer.log.step = recorded
    trainer.run()
    return seen


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name]) and "num_batches" not in name}


def test_the_encoder_is_frozen_for_the_first_updates(recipe, corpus, tmp_path):
    seen = states(start(with_training(recipe, freeze=FreezeConfig(steps=3)), corpus, tmp_path / "run"))
    frozen = moved(seen[0], seen[3])
    assert frozen and not any(name.startswith("encoder.") for name in frozen)
    assert {"ctc.linear.weight", "decoder.embedding.weight"} <= frozen
    later = moved(seen[3], seen[4])
    assert {"encoder.subsampling.out.linear.weight", "encoder.subsampling.out.norm.running_var"} <= later


def test_the_lower_layers_are_frozen_for_the_whole_run(recipe, corpus, tmp_path):
    seen = states(start(with_training(recipe, freeze=FreezeConfig(steps=-1, layers=1)), corpus, tmp_path / "run"))
    found = moved(seen[0], seen[-1])
    assert not any(name.startswith(("encoder.subsampling.", "encoder.layers.0.")) for name in found)
    assert any(name.startswith("encoder.layers.1.") and "running_" in name for name in found)
    heads = recipe.model.encoder.heads
    before, after = (state["encoder.position_bias.table"] for state in (seen[0], seen[-1]))
    assert torch.equal(before[:, :heads], after[:, :heads]), "the biases of the frozen layer"
    assert not torch.equal(before[:, heads:], after[:, heads:])


def test_statistics_may_be_constant_in_all_updates(recipe, corpus, tmp_path):
    seen = states(start(with_training(recipe, frozen_statistics_steps=-1), corpus, tmp_path / "run"))
    found = moved(seen[0], seen[-1])
    assert found and not any("running_" in name for name in found)


def test_a_killed_run_goes_on_frozen(recipe, corpus, tmp_path):
    recipe = with_training(recipe, freeze=FreezeConfig(steps=3))
    start(recipe, corpus, tmp_path / "whole").run()
    run_until(start(recipe, corpus, tmp_path / "run"), 4)
    start(recipe, corpus, tmp_path / "run").run()
    left, right = (load_training_state(tmp_path / name) for name in ("whole", "run"))
    assert differences(left, right) == []


def train_rank(ranks: Ranks, recipe, corpus, folder):
    trainer = build_trainer(recipe, *corpus, folder, Placement(torch.device("cpu"), ranks))
    trainer.run()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_ranks_freeze_and_release_the_encoder(recipe, corpus, tmp_path):
    """Ranks wait for the gradients of all parameters, but must not wait for those of frozen parameters."""
    # Before the first update, the trial of the largest batch runs without frozen parts.
    recipe = with_training(recipe, max_steps=2, num_workers=0, freeze=FreezeConfig(steps=1), check_largest_batch=True)
    for name in ("calls", "run"):
        (tmp_path / name).mkdir()
    one, other = run_ranks(train_rank, 2, tmp_path / "calls", recipe, corpus, tmp_path / "run")
    assert differences(one, other) == []
    torch.manual_seed(recipe.seed)
    first = AsrModel(recipe.model, 13).state_dict()
    assert any(name.startswith("encoder.") for name in moved(first, one)), "released for the second update"


def test_norms_of_the_frozen_part_alone_are_constant(recipe):
    model = AsrModel(recipe.model, 13)
    freeze_for(model, 1, FreezeConfig(steps=1, layers=1), all_statistics=False)
    frozen = {id(norm) for norm in norms(model) if norm.frozen}
    below = [model.encoder.subsampling, model.encoder.layers[0]]
    assert frozen == {id(norm) for part in below for norm in norms(part)}
    freeze_for(model, 2, FreezeConfig(steps=1, layers=1), all_statistics=False)
    assert not any(norm.frozen for norm in norms(model)) and all(p.requires_grad for p in model.parameters())


def test_problems_are_named():
    config = dataclasses.replace(FreezeConfig(), steps=-2, layers=-2)
    assert [problem.split(":")[0] for problem in config.problems()] == ["steps", "layers"]
