"""tools/measure/compare_wenet_scores.py: stores the scores of exported files and compares them with those of another
environment.
"""

from pathlib import Path

import numpy as np
import pytest
from support.recipes.scripts import load_script

pytest.importorskip("onnxruntime", reason="the tool needs onnxruntime, an optional extra")

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.trained_model import TrainedModel

pytestmark = pytest.mark.usefixtures("float32")


def test_scores_are_kept_and_compared(
    exported: Path, trained: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool, folder, scores = load_script("compare_wenet_scores"), tmp_path / "wenet", tmp_path / "scores.npz"
    export_model(trained, folder, ExportOptions("wenet-onnx", chunking=Chunking(8, 2)))
    arguments = [
        str(scores),
        str(exported),
        str(folder),
        "--mel_bins",
        "40",
        "--chunk_size",
        "8",
        "--num_left_chunks",
        "2",
    ]
    assert tool.main(arguments) == 0
    kept = dict(np.load(scores))
    script, graph = str(exported), f"{folder}/*.onnx"
    assert set(kept) == {script, f"{script} rescoring", graph, f"{graph} rescoring"}
    assert np.abs(kept[script] - kept[graph]).max() < 1e-3, "both runtimes see one model"
    capsys.readouterr()
    kept[graph] = 1.1 * kept[graph]
    np.savez(scores, **kept)
    assert tool.main(arguments) == 0
    lines = dict(reversed(line.split("  ")) for line in capsys.readouterr().out.splitlines()[1:])
    assert float(lines[script]) < 1e-5 and float(lines[graph]) == pytest.approx(0.1 / 1.1, rel=0.01)
    other = tmp_path / "other.pt"
    other.write_bytes(exported.read_bytes())
    with pytest.raises(SystemExit, match="has no scores of"):
        tool.main([str(scores), "--mel_bins", "40", str(folder), str(other)])
