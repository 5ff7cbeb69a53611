"""The benchmark of training writes its tables, goals and numbers."""

import json
import sys
from pathlib import Path

import pytest
import torch

from wenet_fusion.data.batching import BatchSize
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder_config import EncoderConfig

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import training as training_benchmark
from parts.training.loader_speed import Speeds
from parts.training.training_subject import KEPT, Form, Plan, Subject, keep_activations, saved_bytes


def test_the_section_loader_measures_every_format(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["loader", "--utterances", "1", "--rounds", "1", "--output", str(tmp_path)]
    assert training_benchmark.main(command) == 0
    record = json.loads((tmp_path / "training_loader.json").read_text(encoding="utf-8"))
    assert len(record["cpu_seconds"]) == 8 and all(min(row.values()) > 0 for row in record["cpu_seconds"].values())
    assert len(record["goals"]) == 4 and all(0 < share < 0.2 for share in record["padding"].values())
    text = (tmp_path / "training_loader.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out and "| flac 16 kHz | " in text


def test_the_limit_is_the_largest_step_up_to_changes_of_speed() -> None:
    assert Speeds(1.0, 1.5, 4.0, 4.5, 5.0, 50.0).limit() == "resampling (50 %)"
    assert Speeds(3.0, 3.5, 4.0, 4.5, 5.0, 50.0).limit() == "decoder (60 %)"


@pytest.mark.slow
def test_the_section_step_measures_models_precisions_and_ranks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["step", "--quick", "--rows", "1", "--precisions", "float32", "--output", str(tmp_path)]
    assert training_benchmark.main(command) == 0
    record = json.loads((tmp_path / "training_step.json").read_text(encoding="utf-8"))
    assert len(record["steps"]) == 7 and len(record["goals"]) == 4
    for numbers in record["steps"].values():
        assert numbers["median"] > 0 and numbers["saved"] > 0 and numbers["peak"] > 0
    assert Form("FusionFormer", "float32", "all kept").name in record["steps"]
    for found in record["ranks"].values():
        assert list(found) == ["one", "two that share nothing", "two"] and found["two"]["median"] > 0
    text = (tmp_path / "training_step.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out and "WeNet's own code is no part of this repository" in text


def test_steps_keep_as_many_activations_as_they_are_to() -> None:
    """The more is computed again, the less is kept; a choice leaves no trace in the next one."""
    encoder = EncoderConfig(dim=16, layers=2, heads=2, feed_forward=256, conv_kernel=4, subsampling_channels=4)
    plan = Plan(encoder, DecoderConfig(1, 1, 2, 32), BatchSize(rows=2, seconds=1.0, tokens=3), seed=0)
    subject = Subject(plan, ("float32",))
    kept = {name: saved_bytes(subject.model, subject.call("float32", name)) for name in (*KEPT, *KEPT)}
    assert kept["all kept"] > kept["default"] > kept["layer inputs kept"] > 0
    hidden = 2 * 2 * 50 * 256 * 4  # of both feed-forward branches in both layers, 50 frames and more of each batch
    assert kept["all kept"] - kept["default"] > hidden
    types = []
    for name in ("layer inputs kept", "all kept"):
        keep_activations(subject.model, KEPT[name])
        types.append({type(module).__name__ for module in subject.model.modules()})
    assert "RecomputedChain" in types[0] and not any(name.startswith("Recomputed") for name in types[1])
    assert all(bool(torch.isfinite(parameter).all()) for parameter in subject.model.parameters())


def test_the_section_start_measures_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
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
