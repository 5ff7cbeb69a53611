"""tools/measure_exports.py measures the error rate of each format, or gives the reason why there is no file."""

import argparse
import json
from pathlib import Path

import measure_exports
import pytest
from support.model.tones import ToneRun

from wenet_fusion.export.flow import TARGETS

pytestmark = pytest.mark.usefixtures("float32")


def test_formats_are_measured_and_refusals_are_lines(
    tone_run: ToneRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [tone_run.checkpoint, "--data", tone_run.dev_list, "--num_utterances", 4, "--output", tmp_path / "out"]
    (tmp_path / "out" / "sherpa-onnx" / "model.onnx").mkdir(parents=True)  # a folder where the file should be
    assert measure_exports.main([*map(str, arguments), "--targets", "torchscript", "sherpa-onnx"]) == 0
    first, second = json.loads((tmp_path / "out" / "exports.json").read_text())
    assert first["checkpoint"] == first["exported"] < 0.5 and first["words"] > 3 and first["refused"] == ""
    assert Path(first["file"]).is_file() and first["megabytes"] > 0.1
    assert second["exported"] is None and "model.onnx is a directory: name a file in it" in second["refused"]
    table = (tmp_path / "out" / "exports.md").read_text()
    assert table in capsys.readouterr().out and "is a directory" in table
    assert "| torchscript | float32 | default |" in table and "| sherpa-onnx | float32 | ctc_greedy_search |" in table


def test_every_target_has_a_file_of_its_own(tmp_path: Path) -> None:
    names = [f"{name}:{precision}" for name, target in TARGETS.items() for precision in target.precisions]
    files = [measure_exports.destination(tmp_path, measure_exports.parse_target(name)) for name in names]
    assert len(set(files)) == len(files) and set(TARGETS) <= measure_exports.FILES.keys()


def test_unknown_formats_are_named() -> None:
    for name, reason in {"onxn": "no target 'onxn'; choose from", "pt2:int8": "pt2 has no precision 'int8'"}.items():
        with pytest.raises(argparse.ArgumentTypeError, match=reason):
            measure_exports.parse_target(name)
