"""The resume law: n steps equal k steps, a kill and n - k steps, bit for bit; a kill during a save keeps a state."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from conftest import tiny_recipe
from support.model.runs import Killed, differences, killed_run, run_until, start, with_training
from support.model.tones import lively

from wenet_fusion.config import to_yaml
from wenet_fusion.training.optimisation.optim import OptimConfig
from wenet_fusion.training.progress.run_log import RunLog
from wenet_fusion.training.state import checkpoint
from wenet_fusion.training.state.checkpoint import STATE_NAME, load_model, load_training_state, save_training_state

STEPS = 9
# 20 utterances in batches of 4 are 5 batches: an epoch has 5 updates, or 3 if an update takes two batches.
ROWS = 4
MEASURED = ("seconds", "audio_hours_per_hour", "peak_memory_gb")


@pytest.fixture(scope="module")
def recipe(tiny_units):
    """Everything random is on; the state is saved at every second step and every epoch."""
    recipe = lively(tiny_recipe(tiny_units))
    model = dataclasses.replace(recipe.model, encoder=dataclasses.replace(recipe.model.encoder, layers=1))
    recipe = dataclasses.replace(recipe, model=model)
    return with_training(
        recipe,
        max_steps=STEPS,
        max_batch_rows=ROWS,
        max_batch_seconds=60.0,
        save_interval_steps=2,
        check_largest_batch=True,
    )


def entries(model_dir):
    """The run's log without clock times and memory."""
    lines = (model_dir / "train_log.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in MEASURED} for line in lines]


def run_differences(left, right):
    """Return the differences of two finished runs: state, checkpoints, log."""
    found = differences(load_training_state(left), load_training_state(right), "state")
    names = [sorted(path.name for path in folder.glob("step_*.pt")) for folder in (left, right)]
    found += differences(*names, "checkpoints")
    for name in set(names[0]) & set(names[1]):
        found += differences(load_model(left / name), load_model(right / name), name)
    return found + differences(entries(left), entries(right), "log")


@pytest.fixture(scope="module")
def uninterrupted(recipe, corpus, tmp_path_factory):
    """The folder of two uninterrupted runs, 1 and 2, named by their `accumulate`."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    for accumulate in (1, 2):
        start(with_training(recipe, accumulate=accumulate), corpus, folder / str(accumulate)).run()
    return folder


@pytest.fixture(scope="module")
def killed(recipe, corpus, tmp_path_factory):
    return killed_run(recipe, corpus, tmp_path_factory.mktemp("killed") / "run")


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    "accumulate, killed_at, resumes_at, epoch, batch",
    [
        (1, 4, 2, 0, 2),  # in the middle of an epoch
        (1, 6, 5, 1, 0),  # right after an epoch
        (2, 6, 4, 1, 2),
        (2, 4, 3, 1, 0),
    ],
)
def test_resume_law(
    recipe, corpus, uninterrupted, tmp_path, capsys, accumulate, killed_at, resumes_at, epoch, batch, num_workers
):
    recipe = with_training(recipe, accumulate=accumulate)
    run_until(loading_with(start(recipe, corpus, tmp_path / "run"), num_workers), killed_at)
    (tmp_path / "run/train_log.jsonl").open("a").write('{"kind": "step", "st')  # the kill came in the middle of a line
    torch.manual_seed(1234)
    torch.rand(3)
    trainer = loading_with(start(recipe, corpus, tmp_path / "run"), num_workers)
    assert f"resuming {tmp_path / 'run'} at step {resumes_at}\n" in capsys.readouterr().out
    assert (trainer.step, trainer.epoch, trainer.batch) == (resumes_at, epoch, batch)
    trainer.run()
    assert run_differences(uninterrupted / str(accumulate), tmp_path / "run") == []


def loading_with(trainer, num_workers):
    """Change how an existing trainer loads batches, which changes no number."""
    trainer.config = dataclasses.replace(trainer.config, num_workers=num_workers)
    return trainer


def test_the_run_is_random_enough_to_prove_something(recipe, corpus, uninterrupted, tmp_path):
    """Two seeds differ in everything, so equality above is no accident."""
    other = dataclasses.replace(recipe, seed=1)
    start(other, corpus, tmp_path / "run").run()
    found = run_differences(uninterrupted / "1", tmp_path / "run")
    assert {"state.rng[0]", "state.weights.encoder.layers.0.attention.op.qkv.norm.running_mean", "log[0].loss"} <= set(
        found
    )


def forget(name):
    """Seeded bugs: a part of the training state is not restored."""

    def damaged(state):
        if name == "weights":  # the running statistics
            weights = {
                key: torch.zeros_like(value) if "running_mean" in key else value for key, value in state.weights.items()
            }
            return dataclasses.replace(state, weights=weights)
        if name == "optimizer":
            return dataclasses.replace(state, optimizer={**state.optimizer, "state": {}})
        values = {"rng": [torch.Generator().manual_seed(5).get_state()], "batch": 0, "step": 1, "epoch_loss": 0.0}
        return dataclasses.replace(state, **{name: values[name]})

    return damaged


@pytest.mark.parametrize("name", ["rng", "weights", "optimizer", "batch", "step", "epoch_loss"])
def test_resume_check_sees_what_is_not_restored(recipe, corpus, killed, uninterrupted, tmp_path, name):
    shutil.copytree(killed, tmp_path / "run")
    save_training_state(forget(name)(load_training_state(tmp_path / "run")), tmp_path / "run")
    start(recipe, corpus, tmp_path / "run").run()
    assert run_differences(uninterrupted / "1", tmp_path / "run") != []


# ---- killed while it writes


KILLS_ITSELF = """
import io, os, signal, sys
from pathlib import Path
import torch
from wenet_fusion.cli.__main__ import main

torch.set_num_threads(1)
victim, count, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
save, seen = torch.save, 0

def half(content, file):
    global seen
    seen += Path(file.name).name.startswith(victim)
    if seen < count:
        return save(content, file)
    whole = io.BytesIO()
    save(content, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = half
main(arguments)
"""


@pytest.mark.parametrize("victim, count, resumes_at", [(STATE_NAME, 3, 4), ("step_", 1, 4)])
def test_kill_in_the_middle_of_a_save(recipe, corpus, uninterrupted, tmp_path, victim, count, resumes_at):
    """States are saved at steps 2, 4, 5, ...: the third state and the first model belong to step 5."""
    (tmp_path / "config.yaml").write_text(to_yaml(recipe))
    command = [
        "train",
        "--config",
        tmp_path / "config.yaml",
        "--train_data",
        corpus[0],
        "--dev_data",
        corpus[1],
        "--model_dir",
        tmp_path / "run",
        "--device",
        "cpu",
    ]
    arguments = [sys.executable, "-c", KILLS_ITSELF, victim, str(count), *map(str, command)]
    killed = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = [path.name for path in (tmp_path / "run").glob("*.part")]
    assert len(left) == 1 and left[0].startswith(victim)
    assert load_training_state(tmp_path / "run").step == resumes_at, "the old state is whole"
    assert [load_model(path).step for path in (tmp_path / "run").glob("step_*.pt")] in ([], [5])
    start(recipe, corpus, tmp_path / "run").run()
    assert run_differences(uninterrupted / "1", tmp_path / "run") == []
    assert not list((tmp_path / "run").glob("*.part")), "the next save took the leftover's place"


def test_the_check_sees_a_save_that_is_not_atomic(recipe, corpus, tmp_path, monkeypatch):
    """Seeded bug: the state is written directly to its final path."""

    def save_half(content, path, before=None):
        path.write_bytes(b"PK\x03\x04 half of it")
        raise Killed

    trainer = start(recipe, corpus, tmp_path / "run")
    monkeypatch.setattr(checkpoint, "save_atomically", save_half)
    with pytest.raises(Killed):
        trainer.run()
    with pytest.raises(ValueError, match="delete .* to start again"):
        start(recipe, corpus, tmp_path / "run")


# ---- the log


def test_the_log_drops_the_future_and_torn_lines(tmp_path):
    path = tmp_path / "train_log.jsonl"
    log = RunLog(path, 0)
    for step in (1, 2, 3):
        log.step(step, 0, {"loss": 1 / 3})
    log.epoch(3, 0, {"dev_wer": 0.5})
    log.step(4, 1, {"loss": float("nan")})
    log.close()
    with path.open("a") as file:
        file.write('{"kind": "step", "step": 5, "lo')
    RunLog(path, 3).close()
    kept = [(line["kind"], line["step"]) for line in entries(tmp_path)]
    assert kept == [("step", 1), ("step", 2), ("step", 3), ("epoch", 3)]
    assert entries(tmp_path)[0]["loss"] == 0.333333
    RunLog(path, 0).close()
    assert path.read_text() == ""


def test_a_run_with_muon_resumes_with_its_moments(recipe, corpus, tmp_path):
    """Both optimisers go on from their states, each with its own learning rate."""
    optim = OptimConfig(algorithm="muon", warmup_steps=2, muon_rate_factor=2.0)
    recipe = with_training(recipe, optim=optim, max_steps=5)
    start(recipe, corpus, tmp_path / "whole").run()
    resumed = killed_run(recipe, corpus, tmp_path / "killed")
    start(recipe, corpus, resumed).run()
    assert run_differences(tmp_path / "whole", resumed) == []
    with pytest.raises(ValueError, match="another configuration .then: algorithm: muon; now: algorithm: adamw"):
        start(with_training(recipe, optim=dataclasses.replace(optim, algorithm="adamw")), corpus, resumed)
