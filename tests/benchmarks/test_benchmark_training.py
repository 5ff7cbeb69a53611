"""The benchmark of training writes its tables, goals and numbers."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import training as training_benchmark
from parts.training.loader_speed import Speeds


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
