"""The benchmark of training writes its tables, goals and numbers."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from conftest import absent

from wenet_fusion.data.batching import BatchSize
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.training.training_config import Precision

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import training as training_benchmark
from parts.candidates import CONFORMER, OURS
from parts.timing import Timing
from parts.training.loader_speed import Speeds
from parts.training.step_memory import TOY_DECODER, TOY_ENCODER, Memory
from parts.training.step_time import NORM_ALONE, WENETS, find_goals
from parts.training.training_setup import (
    ACTIVATIONS,
    PRECISIONS,
    SetupSpec,
    StepVariant,
    TrainingSetup,
    saved_bytes,
    set_activation_checkpointing,
)
from parts.training.wenet_package import import_wenet
from parts.training.wenet_setup import WenetTrainingSetup


def test_the_section_loader_measures_every_format(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["loader", "--utterances", "1", "--rounds", "1", "--output", str(tmp_path)]
    assert training_benchmark.main(command) == 0
    record = json.loads((tmp_path / "training_loader.json").read_text(encoding="utf-8"))
    assert len(record["cpu_seconds"]) == 8 and all(min(row.values()) > 0 for row in record["cpu_seconds"].values())
    assert len(record["goals"]) == 4 and all(0 < share < 0.2 for share in record["padding"].values())
    text = (tmp_path / "training_loader.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out and "| flac 16 kHz | " in text


def test_the_bottleneck_is_the_stage_that_adds_most_time_up_to_speed_perturbation() -> None:
    assert Speeds(1.0, 1.5, 4.0, 4.5, 5.0, 50.0).bottleneck() == "resampling (50 %)"
    assert Speeds(3.0, 3.5, 4.0, 4.5, 5.0, 50.0).bottleneck() == "decoder (60 %)"


FAKE_WENET = """
from torch import nn

class Model(nn.Module):
    def __init__(self, width, tokens):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(80, width), nn.ReLU(), nn.Linear(width, tokens))

    def forward(self, batch, device):
        assert batch["feats"].size(1) % 4 == 3 and batch["target"].size(0) == len(batch["feats_lengths"])
        return {"loss": self.layers(batch["feats"].to(device)).square().mean()}

def init_model(args, configs):
    return Model(configs["encoder_conf"]["output_size"], configs["output_dim"]), configs
"""


@pytest.fixture
def no_wenet() -> Iterator[None]:
    """Hide a WeNet that was imported before; afterwards remove what the test has imported instead."""
    before = {name: sys.modules.pop(name) for name in wenet_modules()}
    yield
    for name in wenet_modules():
        del sys.modules[name]
    sys.modules.update(before)


def wenet_modules() -> list[str]:
    return [name for name in sys.modules if name == "wenet" or name.startswith("wenet.")]


@pytest.fixture
def fake_wenet(tmp_path: Path, no_wenet: None) -> Path:
    """Return a folder with a package that has WeNet's names and an `__init__` that cannot be run."""
    package = tmp_path / "site" / "wenet"
    (package / "utils").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")
    (package / "utils" / "init_model.py").write_text(f"import wandb{FAKE_WENET}", encoding="utf-8")
    return package.parent


def check_steps(folder: Path | None, precisions: Sequence[Precision]) -> None:
    spec = SetupSpec(TOY_ENCODER, TOY_DECODER, BatchSize(rows=2, seconds=1.0, tokens=3), seed=0, wenet=folder)
    setup = WenetTrainingSetup(spec, tuple(precisions))
    for precision in precisions:
        before = [parameter.clone() for parameter in setup.model.parameters()]
        step = setup.step_function(precision, "default")
        step()
        changed = [bool((old != new).any()) for old, new in zip(before, setup.model.parameters())]
        assert sum(changed) > 0.9 * len(changed) and saved_bytes(setup.model, step) > 0
        assert all(bool(torch.isfinite(parameter).all()) for parameter in setup.model.parameters())


def test_wenets_package_is_imported_from_its_folder(fake_wenet: Path) -> None:
    check_steps(fake_wenet, ("float32",))
    stand_in = sys.modules["wenet.utils.init_model"].wandb
    assert not hasattr(stand_in, "init") and sys.modules.get("wandb") is not stand_in


def test_wenets_own_model_takes_steps() -> None:
    try:
        import_wenet("utils.init_model")
    except ImportError as error:
        absent(f"WeNet is missing: {error}", "WENET_FUSION_REQUIRE_WENET")
    check_steps(None, PRECISIONS)


def test_a_folder_without_wenets_package_is_explained(tmp_path: Path, no_wenet: None) -> None:
    with pytest.raises(ValueError, match="holds no package wenet: pip install --no-deps --target .* rev-reverb==0.1.0"):
        training_benchmark.main(["step", "--quick", "--wenet", str(tmp_path), "--output", str(tmp_path)])


def test_the_step_of_wenets_own_model_has_a_goal() -> None:
    milliseconds = {OURS: 60.0, CONFORMER: 100.0, NORM_ALONE: 80.0, WENETS: 96.0}
    names = {StepVariant(model, "float32", "default").name: value for model, value in milliseconds.items()}
    times = {name: Timing(value, value, value, 5, 0) for name, value in names.items()}
    goals = {goal.what: goal for goal in find_goals(times, {name: Memory(1, 2) for name in names}, ["float32"])}
    goal = goals[f"time of a step, {OURS} / {WENETS}"]
    assert (goal.wanted, goal.found, goal.met) == (0.65, 0.625, True)
    del times[StepVariant(WENETS, "float32", "default").name]
    assert len(find_goals(times, {name: Memory(1, 2) for name in names}, ["float32"])) == len(goals) - 2


@pytest.mark.slow
@pytest.mark.parametrize("has_wenet", [False, True])
def test_the_section_step_measures_models_precisions_and_ranks(
    tmp_path: Path, capsys: pytest.CaptureFixture, fake_wenet: Path, has_wenet: bool
) -> None:
    command = ["step", "--quick", "--rows", "1", "--precisions", "float32", "--output", str(tmp_path)]
    assert training_benchmark.main([*command, *(["--wenet", str(fake_wenet)] if has_wenet else [])]) == 0
    record = json.loads((tmp_path / "training_step.json").read_text(encoding="utf-8"))
    assert len(record["steps"]) == 6 + has_wenet and len(record["goals"]) == 4 + 2 * has_wenet
    for numbers in record["steps"].values():
        assert numbers["median"] > 0 and numbers["saved"] > 0 and numbers["peak"] > 0
    assert StepVariant("FusionFormer", "float32", "layer inputs kept").name in record["steps"]
    for found in record["ranks"].values():
        assert (
            list(found) == ["one rank", "two independent trainings", "two ranks"] and found["two ranks"]["median"] > 0
        )
    text = (tmp_path / "training_step.md").read_text(encoding="utf-8")
    said = "WeNet's code as Rev.com ships it" if has_wenet else "WeNet's own code is no part of this repository"
    assert text in capsys.readouterr().out and said in text


def test_steps_keep_the_requested_activations() -> None:
    """Recomputing more keeps fewer activations, and one choice does not affect the next."""
    encoder = EncoderConfig(dim=16, layers=2, heads=2, feed_forward=256, conv_kernel=4, subsampling_channels=4)
    spec = SetupSpec(encoder, DecoderConfig(1, 1, 2, 32), BatchSize(rows=2, seconds=1.0, tokens=3), seed=0)
    setup = TrainingSetup(spec, ("float32",))
    kept = {
        name: saved_bytes(setup.model, setup.step_function("float32", name)) for name in (*ACTIVATIONS, *ACTIVATIONS)
    }
    assert kept["default"] > kept["layer inputs kept"] > 0
    types = []
    for name in ("layer inputs kept", "default"):
        set_activation_checkpointing(setup.model, ACTIVATIONS[name])
        types.append({type(module).__name__ for module in setup.model.modules()})
    assert "RecomputedChain" in types[0] and not any(name.startswith("Recomputed") for name in types[1])
    assert all(bool(torch.isfinite(parameter).all()) for parameter in setup.model.parameters())


def test_the_section_start_measures_a_separate_process(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert training_benchmark.main(["start", "--utterances", "1000", "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "training_start.json").read_text(encoding="utf-8"))
    found = record["start"]["1000"]
    assert 0 < found["imports"] < found["seconds"] and found["megabytes"] > 0 and len(found["workers"]) == 2
    assert [goal["what"] for goal in record["goals"]] == ["seconds to the first batch", "MB of the process"]
    text = (tmp_path / "training_start.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out and "| 1,000 | " in text


def test_the_section_start_needs_a_list_of_some_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1000 or more"):
        training_benchmark.main(["start", "--utterances", "10", "--output", str(tmp_path)])
