"""The benchmark of the native step times both backends on one archive."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import native_step


def test_both_backends_take_turns(installed_kernels: ModuleType, tmp_path: Path) -> None:
    assert native_step.main(["--quick", "--timed", "1", "--batches", "1", "3", "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "native_step.json").read_text())
    assert record["family"] == installed_kernels.families()[0] and len(record["steps"]) == 6
    for times in record["steps"].values():
        assert times["gain"] == pytest.approx(times["onnxruntime"]["median"] / times["native"]["median"])
    text = (tmp_path / "native_step.md").read_text()
    assert "| 16/4 x 1 |" in text and "| 4/16 x 3 |" in text


def test_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wenet_fusion_kernels", None)
    with pytest.raises(ImportError, match="pip install ./runtime/native"):
        native_step.main(["--quick", "--output", str(tmp_path)])


def test_the_guide_quotes_the_results() -> None:
    root = Path(__file__).parents[2]
    results = (root / "benchmarks" / "results" / "native_step.md").read_text().split("| goal")[0]
    rows = [line for line in results.splitlines() if line.startswith("| ")]
    guide = (root / "docs" / "performance.md").read_text()
    assert len(rows) > 3 and [row for row in rows if row not in guide] == []
