"""Training from sequential shards: a resumed run equals an uninterrupted run, with one rank and with two."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from conftest import tiny_recipe
from support.data.shards import served, write_shards
from support.model.rank_runs import run_all
from support.model.runs import differences, run_until, start, with_training
from support.model.tones import lively

from wenet_fusion.data.sequential.sequential_dataset import SequentialDataset
from wenet_fusion.data.sequential.shard_list import SequentialConfig
from wenet_fusion.recipe import RecipeConfig
from wenet_fusion.training.state.checkpoint import load_training_state


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("shards")
    return write_shards(folder / "train", (6, 5, 8, 3)), write_shards(folder / "dev", (3,))


@pytest.fixture(scope="module")
def recipe(tiny_units: Path) -> RecipeConfig:
    """Everything random is on; the state is saved at every step."""
    recipe = lively(tiny_recipe(tiny_units))
    data = dataclasses.replace(recipe.data, data_type="sequential", sequential=SequentialConfig(2, 12))
    model = dataclasses.replace(recipe.model, encoder=dataclasses.replace(recipe.model.encoder, layers=1))
    recipe = dataclasses.replace(recipe, data=data, model=model)
    return with_training(recipe, max_steps=9, max_batch_rows=3, max_batch_seconds=60.0, save_interval_steps=1)


def test_a_killed_run_goes_on_where_it_was(recipe: RecipeConfig, shards: tuple[Path, Path], tmp_path: Path) -> None:
    """An epoch has 8 steps; the run is killed within the epoch and just after it."""
    start(recipe, shards, tmp_path / "whole").run()
    workers = with_training(recipe, num_workers=2)
    for number, kill_at in enumerate((3, 6, 9)):
        run_until(start(workers if number == 1 else recipe, shards, tmp_path / "killed"), kill_at)
    start(recipe, shards, tmp_path / "killed").run()
    states = [load_training_state(tmp_path / name) for name in ("whole", "killed")]
    assert states[0] is not None and states[0].step == 9 and states[0].epoch == 1
    states = [dataclasses.replace(state, config_yaml="") for state in states if state]
    assert differences(*states, "state") == []


@pytest.mark.slow
def test_two_ranks_go_on_where_they_were(recipe: RecipeConfig, shards: tuple[Path, Path], tmp_path: Path) -> None:
    """Shards come from a server and differ in size, so the ranks share the end of the epoch."""
    with served(shards[0].parent) as url:
        (tmp_path / "urls.list").write_text(f"{url}/shard_{{0..3}}.tar\n")
        lists = (tmp_path / "urls.list", shards[1])
        whole = load_training_state(run_all(tmp_path, "whole", with_training(recipe, max_steps=6), lists, ()))
        resumed = run_all(tmp_path, "resumed", with_training(recipe, max_steps=6), lists, (2, 5))
    assert whole is not None and whole.step == 6 and whole.epoch == 1
    assert differences(whole, load_training_state(resumed), "state") == []


def test_another_number_of_ranks_starts_the_epoch_again(
    recipe: RecipeConfig,
    shards: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_until(start(recipe, shards, tmp_path / "run"), 4)
    resumed = start(recipe, shards, tmp_path / "run")
    assert "starts again" not in capsys.readouterr().out and resumed.batch > 0
    assert resumed.train_data.keeps_positions(0, 1, 2) and not resumed.train_data.keeps_positions(0, 1, 3)
    asked = []
    monkeypatch.setattr(SequentialDataset, "keeps_positions", lambda self, *position: asked.append(position))
    assert start(recipe, shards, tmp_path / "run").batch == 0 and asked == [(resumed.batch, 1, 1)]
    assert "the number of ranks has changed: epoch 0 starts again" in capsys.readouterr().out
