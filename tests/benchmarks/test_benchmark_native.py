"""The benchmark of the native step times both backends on one archive."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import native_step
from parts.random_models import Shape
from parts.timing import Timing

from wenet_fusion.model.chunking import Chunking


def test_both_backends_take_turns(installed_kernels: ModuleType, tmp_path: Path) -> None:
    assert native_step.main(["--quick", "--timed", "1", "--batches", "1", "3", "--output", str(tmp_path)]) == 0
    family = installed_kernels.families()[0]
    record = json.loads((tmp_path / f"native_step_{family}.json").read_text())
    assert record["family"] == family and len(record["steps"]) == 6
    for times in record["steps"].values():
        assert times["gain"] == pytest.approx(times["onnxruntime"]["median"] / times["native"]["median"])
        assert times["read_ms"] > 0 and times["multiply_ms"] > 0 and times["products"]["median"] > 0
    text = (tmp_path / f"native_step_{family}.md").read_text()
    assert "| 16/4 x 1 |" in text and "| 4/16 x 3 |" in text
    times = record["steps"]["4/16 x 3"]
    floor = max(times["read_ms"], times["multiply_ms"])
    ratios = [f"{times[name]['median'] / floor:.2f}" for name in ("products", "native")]
    assert f"| {times['products']['median']:.2f} | {' | '.join(ratios)} |" in text


def test_the_floor_grows_with_frames_and_never_falls_below_reading_the_weights() -> None:
    timing = {name: Timing(each, each, each, 1, 0) for name, each in (("read", 10.0), ("multiply", 4.0))}
    timing |= {"native": Timing(8.0, 0, 0, 1, 0), "onnxruntime": Timing(12.0, 0, 0, 1, 0)}
    one, many = (
        native_step.Measured(Shape(Chunking(16, 4), batch), 32_000_000, timing, 400_000_000) for batch in (1, 16)
    )
    assert one.read == many.read == pytest.approx(1.25) and one.multiply == pytest.approx(5.12)
    assert many.multiply == pytest.approx(16 * one.multiply) == pytest.approx(many.floor)
    assert one.gain == pytest.approx(1.5) and one.streams == pytest.approx(80)
    slow = one._replace(multiply_adds=40_000_000_000)
    assert slow.floor == pytest.approx(one.read)


def test_the_error_says_how_to_install_the_native_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wenet_fusion_kernels", None)
    with pytest.raises(ImportError, match=re.escape("pip install './runtime[native]'")):
        native_step.main(["--quick", "--output", str(tmp_path)])


def test_the_guide_quotes_the_results() -> None:
    root = Path(__file__).parents[2]
    guide = (root / "docs" / "performance.md").read_text()
    for name in ("native_step", "step_comparison"):
        for family in ("avx2", "avx512_vnni"):
            results = (root / "benchmarks" / "results" / f"{name}_{family}.md").read_text().split("| goal")[0]
            rows = [line for line in results.splitlines() if line.startswith("| ")]
            assert len(rows) > 3 and [row for row in rows if row not in guide] == []
