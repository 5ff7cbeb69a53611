"""Logging the numbers of a run: TensorBoard, Weights & Biases offline, MLflow's file store."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import randomise, tiny_recipe
from support.model.runs import CPU, start, with_training
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from wenet_fusion.model.chunking import FULL_CONTEXT
from wenet_fusion.model.layers.norm import norms
from wenet_fusion.recipe import RecipeConfig
from wenet_fusion.training.optimisation.trial import first_nonfinite, leaving_no_trace
from wenet_fusion.training.progress import mlflow_logger, wandb_logger
from wenet_fusion.training.progress.diagnostics import norm_statistics
from wenet_fusion.training.progress.logger_protocol import LoggerName, Sample
from wenet_fusion.training.progress.loggers import Loggers, open_loggers
from wenet_fusion.training.progress.mlflow_logger import MlflowLogger
from wenet_fusion.training.progress.run_log import RunLog
from wenet_fusion.training.progress.wandb_logger import WandbLogger

Corpus = tuple[Path, Path]
SAMPLES = [Sample("u1", "one two", "one to")]


@pytest.fixture(scope="module")
def recipe(tiny_units: Path) -> RecipeConfig:
    return with_training(tiny_recipe(tiny_units), max_steps=3, max_batch_rows=4, validate_interval_steps=2)


def test_a_run_has_all_curves_and_texts_in_tensorboard(recipe: RecipeConfig, corpus: Corpus, tmp_path: Path) -> None:
    start(recipe, corpus, tmp_path / "run").run()
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    tags = events.Tags()
    wanted = {"loss", "ctc_loss", "attention_loss", "lr", "grad_norm", "audio_hours_per_hour", "peak_memory_gb"}
    assert {f"train/{name}" for name in wanted} <= set(tags["scalars"])
    validated = {"dev/loss", "dev/wer", "norm/gap", "norm/loss_batch_statistics", "norm/loss_running_statistics"}
    assert validated <= set(tags["scalars"])
    layer = "running_variance/encoder.layers.0.attention.op.qkv.norm"
    assert [event.step for event in events.Scalars(layer)] == [2, 3]
    assert 0 < events.Scalars("train/audio_hours_per_hour")[-1].value < 1e6
    assert 0.05 < events.Scalars("train/peak_memory_gb")[-1].value < 1000
    (tag,) = (tag for tag in tags["tensors"] if tag.startswith("dev/samples"))
    text = events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
    first = json.loads(corpus[1].read_text().splitlines()[0])
    assert f"**{first['key']}** {first['txt']}" in text


def test_the_gap_is_zero_if_the_running_statistics_are_those_of_the_batch(
    recipe: RecipeConfig, corpus: Corpus, tmp_path: Path
) -> None:
    trainer = start(recipe, corpus, tmp_path / "run")
    randomise(trainer.model)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    def gap() -> float:
        return norm_statistics(trainer.model, trainer.dev_data, FULL_CONTEXT, 20.0, CPU)["norm/gap"]

    trainer.model.train()
    assert abs(gap()) > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.model.training and all(norm.training for norm in norms(trainer.model))
    batch, _ = trainer.dev_data.load(list(range(len(trainer.dev_data))), 0)
    for norm in norms(trainer.model):
        norm.momentum = 1.0
    for module in trainer.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        trainer.model.encode(batch.samples_BN, batch.sample_lengths_B, FULL_CONTEXT)
    found = norm_statistics(trainer.model, trainer.dev_data, FULL_CONTEXT, 1e9, CPU)
    assert found["norm/gap"] == pytest.approx(0.0, abs=0.05 * found["norm/loss_running_statistics"])


# ---- other packages


def write_twice(logger: Callable[[Path, str], WandbLogger | MlflowLogger], folder: Path) -> None:
    """Write the numbers of a run, which is resumed after its first step."""
    for step in (1, 2):
        log = logger(folder, "seed: 0\n")
        log.step(step, 0, {"loss": 9.5, "grad_norm": float("nan")})
        log.epoch(step, 0, {"dev_wer": 0.5})
        log.details(step, {"norm/gap": 0.1}, SAMPLES)
        log.close()


def test_wandb_gets_the_numbers_and_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write_twice(WandbLogger, tmp_path)
    written = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    run_id = (tmp_path / "wandb_run.txt").read_text().strip()
    assert len(written) >= 1 and all(run_id in path.name for path in written)
    content = b"".join(path.read_bytes() for path in written)
    assert b"train/loss" in content and b"dev/wer" in content and b"norm/gap" in content


@pytest.mark.parametrize("name, call", [("wandb", "wandb.init"), ("mlflow", "mlflow.tracking.MlflowClient")])
def test_a_logger_without_login_or_server_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: LoggerName, call: str
) -> None:
    pytest.importorskip(name)

    def refuse(*_: object, **settings: object) -> None:
        raise Exception("nobody is logged in")

    monkeypatch.setattr(call, refuse)
    with pytest.raises(ValueError, match=f"training.loggers: {name} cannot start: nobody is .* or leave it out"):
        open_loggers([name], tmp_path, 0, "seed: 0\n")


def test_mlflow_gets_the_numbers_and_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "")  # restored after the test
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    write_twice(MlflowLogger, tmp_path)
    client = tracking.MlflowClient((tmp_path / "mlruns").as_uri())
    run = (tmp_path / "mlflow_run.txt").read_text().strip()
    assert [metric.step for metric in client.get_metric_history(run, "train/loss")] == [1, 2]
    assert client.get_run(run).data.metrics.keys() == {"train/loss", "dev/wer", "norm/gap"}


@pytest.mark.parametrize("name, module", [("wandb", wandb_logger), ("mlflow", mlflow_logger)])
def test_a_missing_package_says_how_to_install_it(
    name: str, module: object, recipe: RecipeConfig, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hidden in (name, f"{name}.entities", f"{name}.tracking"):
        monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ImportError, match=rf"training.loggers: {name} needs .* pip install 'wenet-fusion\[{name}\]'"):
        start(with_training(recipe, loggers=("tensorboard", name)), corpus, tmp_path / "run")


# ---- values that are not finite


class Bad(nn.Module):
    """A module whose output or gradient is not finite."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.weight = how, nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "output":
            return x * float("inf")
        return x + (self.weight - self.weight.detach()).abs().sqrt() if self.how == "gradient" else x * self.weight


@pytest.mark.parametrize(
    "how, where", [("output", "the output of 1"), ("gradient", "the gradient of 1.weight"), ("no", "")]
)
def test_the_first_module_that_is_not_finite_is_named(how: str, where: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), Bad(how), nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with leaving_no_trace(model):
        found = first_nonfinite(model, lambda: model(torch.randn(4, 2)).sum().backward())
    assert found == where
    after = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert torch.equal(state, torch.get_rng_state()) and model[0].weight.grad is None


class _Down:
    """A tracking server that answers nothing."""

    def step(self, step: int, epoch: int, values: object) -> None:
        raise ConnectionError("the server is down")

    epoch = details = step

    def close(self) -> None:
        raise ConnectionError("still down")


def test_a_tracking_server_that_is_down_does_not_end_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_log = RunLog(tmp_path / "log.jsonl", 0)
    log = Loggers([run_log, _Down(), _Down()])
    for step in (1, 2):
        log.step(step, 0, {"loss": 1.0})
    log.close()
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    assert (
        capsys.readouterr().err.count("_Down failed and gets no more numbers (ConnectionError: the server is down)")
        == 2
    )
    with pytest.raises(ConnectionError):
        Loggers([_Down()]).step(1, 0, {})
