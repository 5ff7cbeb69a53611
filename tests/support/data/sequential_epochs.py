"""Read the epochs of sequential shards, and compare them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import tiny_recipe

from wenet_fusion.data.batch_source import LoadedBatch, Loading
from wenet_fusion.data.sequential import tar_members
from wenet_fusion.data.sequential.sequential_dataset import SequentialDataset
from wenet_fusion.data.sequential.shard_list import SequentialConfig
from wenet_fusion.ranks import Ranks
from wenet_fusion.recipe import RecipeConfig, build_source
from wenet_fusion.text.tokenizer import build_tokenizer

LOADING = Loading(max_batch_seconds=60.0, max_batch_rows=3, seed=0)
ENDLESS = 10**9


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry failed reads at once, without a pause."""
    monkeypatch.setattr(tar_members, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture(scope="module")
def recipe(tiny_units: Path) -> RecipeConfig:
    """A tiny recipe that reads shards in sequence."""
    return sequential_recipe(tiny_recipe(tiny_units))


def sequential_recipe(recipe: RecipeConfig) -> RecipeConfig:
    """Return the recipe with four lanes, a small buffer, and changes of speed and loudness."""
    augmentation = dataclasses.replace(recipe.data.augmentation, speed_factors=(0.9, 1.0, 1.1), gain_db=(-6.0, 6.0))
    settings = SequentialConfig(lanes=4, shuffle_buffer=16, retries=3)
    data = dataclasses.replace(recipe.data, data_type="sequential", sequential=settings, augmentation=augmentation)
    return dataclasses.replace(recipe, data=data)


def changed(recipe: RecipeConfig, max_skipped: float = 0.01, **settings: object) -> RecipeConfig:
    """Return the recipe with other settings of sequential reading."""
    sequential = dataclasses.replace(recipe.data.sequential, **settings)  # type: ignore[arg-type]
    return dataclasses.replace(
        recipe, data=dataclasses.replace(recipe.data, sequential=sequential, max_skipped=max_skipped)
    )


def source(recipe: RecipeConfig, data_list: Path) -> SequentialDataset:
    """Return the training data of a list of shards."""
    found = build_source(recipe, data_list, build_tokenizer(recipe.tokenizer, Path()))
    assert isinstance(found, SequentialDataset)
    return found


def epoch(
    recipe: RecipeConfig, data_list: Path, ranks: Ranks = Ranks(), start: int = 0, loading: Loading = LOADING
) -> list[LoadedBatch]:
    """Return the batches of epoch 2."""
    return list(source(recipe, data_list).epoch(2, start, ENDLESS, loading, ranks).batches)


def keys(batches: list[LoadedBatch]) -> list[tuple[str, ...]]:
    """Return the keys of each batch."""
    return [loaded.batch.keys for loaded in batches]


def same(left: list[LoadedBatch], right: list[LoadedBatch]) -> bool:
    """Return whether two epochs are the same, bit for bit."""
    return len(left) == len(right) and all(
        one[1:] == two[1:]
        and one.batch.keys == two.batch.keys
        and all(torch.equal(a, b) for a, b in zip(one.batch[1:], two.batch[1:]))
        for one, two in zip(left, right)
    )
