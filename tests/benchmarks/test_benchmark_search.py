"""The benchmark of the searches: it times the right calls, and its table holds the measurements."""

import json
import sys
from pathlib import Path

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
import search_speed as search_benchmark  # noqa: E402
from wenet_fusion_runtime.search.hot_words import check_hot_words  # noqa: E402


def test_the_search_benchmark_reports_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search_benchmark.main(["--quick", "--timed", "1", "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))
    text = (tmp_path / "search.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    medians = {name: times["median"] for name, times in record["times"].items()}
    assert list(medians) == [
        "int8 encoder",
        "greedy",
        "prefix beam",
        "prefix beam, nothing pruned",
        "prefix beam, blank_skip_threshold 0.98",
        "prefix beam, 100 hot words",
        "prefix beam, 10,000 hot words",
    ]
    (goal,) = record["goals"]
    assert goal["found"] == pytest.approx(medians["prefix beam"] / medians["int8 encoder"]) and goal["at_most"]
    assert (
        f"| prefix beam | {medians['prefix beam'] / 62:.3f} | {1000 * medians['prefix beam'] / record['frames']:.1f} |"
        in text
    )
    assert 0 < medians["greedy"] < medians["prefix beam"], "a beam search does many times the work"


def test_random_phrases_can_be_spelled() -> None:
    units = search_benchmark.random_pieces(300, seed=1)
    phrases = search_benchmark.random_phrases(units, 50, seed=1)
    assert len(units) == 300 and len(phrases) == 50 and check_hot_words(phrases, units).problems == ()


def test_impossible_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        search_benchmark.main(["--rounds", "0", "--output", str(tmp_path)])
