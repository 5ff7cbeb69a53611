"""The comparison of steps times every variant in one table."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "fbgemm" not in torch.backends.quantized.supported_engines, reason="torch has no FBGEMM on this machine"
    ),
]
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import step_comparison  # noqa: E402


def test_all_variants_take_turns(installed_kernels: ModuleType, tmp_path: Path) -> None:
    arguments = ["--quick", "--timed", "1", "--batches", "1", "2", "--output", str(tmp_path)]
    assert step_comparison.main(arguments) == 0
    record = json.loads((tmp_path / "step_comparison.json").read_text())
    assert list(record["steps"]) == ["16/4 x 1", "16/4 x 2", "4/16 x 1", "4/16 x 2"]
    text = (tmp_path / "step_comparison.md").read_text()
    for times in record["steps"].values():
        assert len(times) == 2 + 4
        ours = min(time["median"] for name, time in times.items() if name.startswith("FusionFormer"))
        assert all(f"| {time['median']:.2f} | {time['median'] / ours:.2f} |" in text for time in times.values())


def test_a_folder_without_exports_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has none of final.zip, final_quant.zip, encoder.onnx"):
        step_comparison.wenet_models(tmp_path, step_comparison.CHUNKINGS[0])
