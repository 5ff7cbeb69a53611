"""The files of a run: which checkpoints stay, writes in the background, and the loss by a kill at any moment."""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import tiny_recipe
from support.model.runs import differences, start, with_training
from support.runtime.full_disk import files_of_at_most

from wenet_fusion.recipe import RecipeConfig
from wenet_fusion.training.state import checkpoint, run_files
from wenet_fusion.training.state.background_writer import BackgroundWriter
from wenet_fusion.training.state.checkpoint import (
    STATE_NAME,
    ModelCheckpoint,
    checkpoint_name,
    list_checkpoints,
    load_model,
    load_training_state,
    save_model,
)
from wenet_fusion.training.state.run_files import Keeping, RunFiles, best_checkpoints, delete_surplus

Corpus = tuple[Path, Path]


@pytest.fixture(scope="module")
def recipe(tiny_units: Path) -> RecipeConfig:
    """Epochs have 5 updates."""
    return with_training(tiny_recipe(tiny_units), max_steps=23, max_batch_rows=4, max_batch_seconds=60.0)


# ---- which checkpoints stay


def write_checkpoints(folder: Path, scores: dict[int, tuple[float, float]]) -> None:
    for step, (loss, rate) in scores.items():
        save_model(ModelCheckpoint("", ("a",), b"", {}, step, loss, rate), folder / checkpoint_name(step))


SCORES = {1: (9.0, 0.5), 2: (3.0, 0.4), 3: (4.0, 0.2), 4: (5.0, 0.2), 5: (math.nan, math.nan), 6: (6.0, 0.9)}


@pytest.mark.parametrize(
    "keeping, left",
    [
        (Keeping(2), [5, 6]),
        (Keeping(2, best=1), [3, 5, 6]),
        (Keeping(1, best=2), [3, 4, 6]),
        (Keeping(1, best=2, by="loss"), [2, 3, 6]),
        (Keeping(9, best=2), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_newest_and_the_best_stay(tmp_path: Path, keeping: Keeping, left: list[int]) -> None:
    write_checkpoints(tmp_path, SCORES)
    delete_surplus(tmp_path, keeping)
    assert [checkpoint.checkpoint_step(path) for path in list_checkpoints(tmp_path)] == left


def test_a_damaged_checkpoint_is_the_worst(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, {1: (3.0, 0.4), 2: (2.0, 0.3)})
    (tmp_path / checkpoint_name(2)).write_bytes(b"PK\x03\x04")
    assert best_checkpoints(list_checkpoints(tmp_path), 1, "loss") == [tmp_path / checkpoint_name(1)]


def test_a_run_keeps_its_best(recipe: RecipeConfig, corpus: Corpus, tmp_path: Path) -> None:
    recipe = with_training(
        recipe, max_steps=6, validate_interval_steps=1, keep_checkpoints=1, keep_best_checkpoints=1, best_by="loss"
    )
    trainer = start(recipe, corpus, tmp_path / "run")
    save, losses = trainer._save_model, iter([5.0, 2.0, 4.0, 3.0, 6.0, 7.0])
    trainer._save_model = lambda loss, rate: save(next(losses), rate)  # type: ignore[method-assign]
    trainer.run()
    assert [load_model(path).step for path in list_checkpoints(tmp_path / "run")] == [2, 6]


# ---- writing in the background


def test_writes_keep_their_order_and_the_first_failure_stops_those_after_it() -> None:
    done: list[int] = []
    gate = threading.Event()

    def fail() -> None:
        raise OSError("full")

    writer = BackgroundWriter(enabled=True)
    for write in (gate.wait, lambda: done.append(1), fail, lambda: done.append(2)):
        writer.submit(write)
    writer.check()
    assert done == [], "the caller does not wait"
    gate.set()
    with pytest.raises(OSError, match="full"):
        writer.wait()
    writer.close()
    assert done == [1]


def test_the_written_state_is_that_of_the_call(recipe: RecipeConfig, corpus: Corpus, tmp_path: Path) -> None:
    """Training changes weights and moments in place while the thread writes."""
    trainer = start(with_training(recipe, save_interval_steps=20, save_in_background=True), corpus, tmp_path / "run")
    save, gate, expected = run_files.save_training_state, threading.Event(), {}

    def late(state: checkpoint.TrainingState, folder: Path) -> None:
        gate.wait()
        save(state, folder)

    run_files.save_training_state = late
    try:
        trainer.config = with_training(recipe, max_steps=5, validate_interval_steps=100).training
        trainer.run = lambda: None  # type: ignore[method-assign]
        trainer._save_state()
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.add_(1.0)
        gate.set()
        trainer.files.wait()
    finally:
        gate.set()
        run_files.save_training_state = save
    state = load_training_state(tmp_path / "run")
    assert state is not None and differences(state.weights, before) == [] and expected == {}


def test_a_full_disk_ends_the_run_in_one_sentence_and_the_state_before_stays(
    recipe: RecipeConfig, corpus: Corpus, tmp_path: Path
) -> None:
    recipe = with_training(recipe, save_interval_steps=10, save_in_background=True, validate_interval_steps=100)
    folder = tmp_path / "run"
    trainer = start(recipe, corpus, folder)
    update = trainer._update

    def disk_is_full_from_step_10(batches: list) -> dict[str, float]:
        if trainer.step == 10:
            full.__enter__()
        return update(batches)

    trainer._update = disk_is_full_from_step_10  # type: ignore[method-assign]
    full = files_of_at_most(20_000)
    try:
        with pytest.raises(OSError, match=f"{STATE_NAME} cannot be written .File too large.; free some space"):
            trainer.run()
    finally:
        full.__exit__(None, None, None)
    assert trainer.step == 19, "states are taken at steps 9 and 18, and the write ends within a step"
    state = load_training_state(folder)
    assert state is not None and state.step == 9


@pytest.mark.parametrize("interval, in_background", [(1, True), (7, False), (10, True), (500, True), (500, False)])
def test_a_kill_loses_at_most_the_interval(interval: int, in_background: bool, tmp_path: Path) -> None:
    """This holds for a kill at any moment and for writes of any duration."""
    files = RunFiles(tmp_path, interval, Keeping(1), in_background)
    started = [step for step in range(1, 4 * interval) if files.is_due(step)]
    for step in range(1, 4 * interval):
        complete = [due for due in started if due + files._lead <= step]  # `step_done` has waited for these writes
        assert step - max(complete, default=0) <= interval


# ---- kills


def train_into(recipe: RecipeConfig, corpus: Corpus, folder: Path) -> None:
    torch.set_num_threads(1)
    start(recipe, corpus, folder).run()


def logged_step(folder: Path) -> int:
    """The last step that the log has; a kill may have cut its last line."""
    log = folder / "train_log.jsonl"
    whole = log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []
    return max((json.loads(line)["step"] for line in whole), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("in_background", [False, True])
def test_kills_at_random_moments_lose_at_most_the_interval_and_change_nothing(
    recipe: RecipeConfig, corpus: Corpus, tmp_path: Path, in_background: bool
) -> None:
    recipe = with_training(recipe, save_interval_steps=10 if in_background else 2, save_in_background=in_background)
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    start(recipe, corpus, whole).run()
    folder.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "wenet_fusion.recipe"])
    rng, reached = random.Random(0), 0
    for kill in range(12):
        process = context.Process(target=train_into, args=(recipe, corpus, folder))
        process.start()
        goal, end = reached + rng.randint(1, 6), time.monotonic() + 60
        while process.is_alive() and kill < 11 and logged_step(folder) < goal and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        if kill < 11:
            process.kill()
        process.join()
        logged, state = logged_step(folder), load_training_state(folder)
        reached = 0 if state is None else state.step
        assert 0 <= logged - reached <= recipe.training.save_interval_steps
        if process.exitcode == 0:
            break
    assert process.exitcode == 0 and reached == 23
    assert differences(load_training_state(whole), load_training_state(folder)) == []
    assert [path.name for path in list_checkpoints(folder)] == [path.name for path in list_checkpoints(whole)]
