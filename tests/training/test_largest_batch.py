"""The largest batch is tried before training: a lack of memory is found at once, and the run does not change."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_recipe
from support.model.runs import differences, start, with_training
from support.model.tones import lively

from wenet_fusion.data.batching import epoch_batches, largest_batches
from wenet_fusion.recipe import RecipeConfig
from wenet_fusion.training.optimisation import trial
from wenet_fusion.training.optimisation.largest_batch import rows_that_fit
from wenet_fusion.training.state.checkpoint import load_training_state

NO_MEMORY = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: 99 bytes"
Corpus = tuple[Path, Path]


@pytest.fixture(scope="module")
def recipe(tiny_units: Path) -> RecipeConfig:
    return with_training(lively(tiny_recipe(tiny_units)), max_steps=3, max_batch_seconds=12.0, check_largest_batch=True)


def test_the_trial_is_as_large_as_every_batch(recipe: RecipeConfig, corpus: Corpus, tmp_path: Path) -> None:
    """Even with changes of speed, which make utterances longer than their lists say."""
    trainer = start(with_training(recipe, max_steps=30), corpus, tmp_path / "run")
    forward, shapes = trainer.model.forward, []

    def recorded(samples: torch.Tensor, lengths: torch.Tensor, tokens: torch.Tensor, *others: object) -> object:
        shapes.append((trainer.step, samples.size(0) * samples.size(1) ** 2, tokens.numel()))
        return forward(samples, lengths, tokens, *others)

    trainer.model.forward = recorded  # type: ignore[method-assign]
    trainer.run()
    tried = [shape for shape in shapes if shape[0] == 0]
    trained = [shape for shape in shapes if shape[0] > 0]
    assert 1 <= len(tried) <= 2 and len(trained) == 30
    assert max(area for _, area, _ in tried) >= max(area for _, area, _ in trained)
    assert max(tokens for *_, tokens in tried) >= max(tokens for *_, tokens in trained)


def test_the_trial_leaves_no_trace(recipe: RecipeConfig, corpus: Corpus, tmp_path: Path) -> None:
    """With dropout and BatchNorm, weights, statistics, moments and generators are the same as without the trial."""
    runs = {}
    for name, tried in (("with", True), ("without", False)):
        start(with_training(recipe, check_largest_batch=tried), corpus, tmp_path / name).run()
        runs[name] = load_training_state(tmp_path / name)
    left, right = (vars(state) | {"config_yaml": ""} for state in runs.values())
    assert differences(left, right) == []


def test_the_check_sees_a_trace(
    recipe: RecipeConfig, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeded bug: generators continue where the trial left them."""
    monkeypatch.setattr(trial, "set_own_random_state", lambda *_: None)
    states = []
    for tried in (True, False):
        start(with_training(recipe, check_largest_batch=tried), corpus, tmp_path / str(tried)).run()
        states.append(load_training_state(tmp_path / str(tried)))
    assert differences(states[0].weights, states[1].weights) != []


def test_memory_that_runs_out_is_found_before_the_first_step_with_what_fits(
    recipe: RecipeConfig, corpus: Corpus, tmp_path: Path
) -> None:
    trainer = start(recipe, corpus, tmp_path / "run")
    forward, before = trainer.model.forward, copy.deepcopy(trainer.model.state_dict())

    def limited(samples: torch.Tensor, *others: object) -> object:
        if samples.numel() > 7 * 8000:
            raise RuntimeError(NO_MEMORY)
        return forward(samples, *others)

    trainer.model.forward = limited  # type: ignore[method-assign]
    with pytest.raises(OSError) as caught:
        trainer.run()
    message = str(caught.value)
    assert trainer.step == 0 and "\n" not in message
    assert "memory ran out before training, in a trial of the largest batch (" in message
    assert "can't allocate memory: 99 bytes" in message
    assert differences(before, trainer.model.state_dict()) == []
    limit = int(message.partition("training.max_batch_seconds=")[2].partition(" ")[0])
    assert 2 <= limit <= 7
    fitting = start(with_training(recipe, max_batch_seconds=0.75 * limit), corpus, tmp_path / "run")
    forward = fitting.model.forward
    fitting.model.forward = limited  # type: ignore[method-assign]
    fitting.run()
    assert fitting.step == 3


def test_one_utterance_that_does_not_fit_is_called_too_long(
    recipe: RecipeConfig, corpus: Corpus, tmp_path: Path
) -> None:
    trainer = start(recipe, corpus, tmp_path / "run")

    def none_fits(*_: object) -> object:
        raise RuntimeError(NO_MEMORY)

    trainer.model.forward = none_fits  # type: ignore[method-assign]
    with pytest.raises(OSError, match="one such utterance is too long: take the longest ones out of the list"):
        trainer.run()


@pytest.mark.parametrize("rows", [1, 2, 7, 40, 200])
def test_the_search_finds_nearly_all_rows_that_fit(rows: int) -> None:
    for most in range(rows + 1):
        tries: list[int] = []

        def fits(tried: int) -> bool:
            tries.append(tried)
            return tried <= most

        found = rows_that_fit(rows, fits)
        assert found <= most and (found > 0) == (most > 0) and found >= 0.6 * most
        assert len(tries) <= 12


def test_the_largest_batches_are_those_with_most_attention_and_most_tokens() -> None:
    rng = np.random.default_rng(0)
    seconds, tokens = rng.uniform(1, 20, 300).tolist(), rng.integers(1, 60, 300).tolist()
    plan = epoch_batches(seconds, 100.0, 16, seed=0, epoch=0)
    sizes = largest_batches(plan, seconds, tokens)
    for batch in plan:
        longest, widest = max(seconds[index] for index in batch), max(tokens[index] for index in batch)
        assert any(size.rows * size.seconds**2 >= len(batch) * longest**2 for size in sizes)
        assert any(size.rows * size.tokens >= len(batch) * widest for size in sizes)
    assert largest_batches([], [], []) == ()
