"""The progress that training prints: lines in a log, a bar on a terminal."""

import re
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_recipe
from support.model.runs import start, with_training

from wenet_fusion.data.batching import epoch_batches, padding_fraction
from wenet_fusion.ranks import Placement
from wenet_fusion.training.progress import step_lines
from wenet_fusion.training.progress.diagnostics import Speedometer
from wenet_fusion.training.progress.step_lines import StepLines

VALUES = {"loss": 2.0, "lr": 1e-3, "grad_norm": 4.0, "audio_hours_per_hour": 160.4, "peak_memory_gb": 0.7}


@pytest.fixture
def clock(monkeypatch):
    """A list with the time, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_line_comes_twice_a_minute_with_the_mean_loss_and_the_time_left(clock, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    lines, found = StepLines(max_steps=1000), []
    for step in range(101, 111):  # a resumed run, an update each 10 s
        found.append(lines.due(step, 3, {**VALUES, "loss": float(step)}))
        clock[0] += 10
    assert [number for number, line in enumerate(found) if line] == [0, 3, 6, 9]
    assert found[0].startswith("epoch 3, step 101 of 1000: loss 101.000, lr 1.0e-03, gradient norm 4.00, 160 times")
    assert found[3].startswith("epoch 3, step 104 of 1000: loss 103.000, ")
    assert found[0].endswith(", 0.7 GB") and found[9].endswith(", 0.7 GB, 2:28:20 left")  # 890 updates


def test_a_terminal_gets_a_bar_instead(clock, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    lines = StepLines(max_steps=10)
    assert lines.due(1, 0, VALUES) == lines.due(2, 0, VALUES) == "" and not lines._losses  # no list that grows


def test_the_log_of_a_run_is_worth_reading(tiny_units, corpus, tmp_path, capsys, monkeypatch):
    """The log has a line after the first update, and the batches, hours and padding of each epoch."""
    monkeypatch.setattr(step_lines, "LOG_INTERVAL_SECONDS", 1e9)  # on a machine of any speed
    recipe = with_training(tiny_recipe(tiny_units), max_steps=6, max_batch_rows=4, save_interval_steps=2)
    trainer = start(recipe, corpus, tmp_path / "run")
    trainer.run()
    printed = capsys.readouterr()
    assert printed.err == ""
    assert [line.split(",")[0].split(":")[0] for line in printed.out.splitlines()] == [
        "epoch 0", "step 5", "epoch 0", "step 6", "epoch 1"
    ]  # fmt: skip
    data, padding = trainer.train_data, recipe.model.frontend.right_padding_samples / 8000
    seconds = data.seconds + padding
    plan = epoch_batches(data.seconds, recipe.training.max_batch_seconds, 4, recipe.seed, 0)
    found = re.search(r"epoch 0: (\d+) batches, ([\d.]+) h of audio and ([\d.]+) % padding, in 0:0\d:", printed.out)
    assert int(found[1]) == len(plan) == 5 and float(found[2]) == pytest.approx(seconds.sum() / 3600, abs=0.006)
    assert float(found[3]) == pytest.approx(100 * padding_fraction(seconds, plan), abs=0.06) and float(found[3]) > 1


def test_one_batch_is_in_the_singular():
    meter = Speedometer(8000, Placement(torch.device("cpu")))
    batch = SimpleNamespace(sample_lengths_B=torch.tensor([8000]), samples_BN=torch.zeros(1, 8000))
    meter.update([batch])
    assert meter.of_epoch().startswith("1 batch, 0.00 h of audio and 0.0 % padding")
    meter.update([batch])
    assert meter.of_epoch().startswith("2 batches, ")
