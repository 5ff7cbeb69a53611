"""Writing ONNX graphs: pruned inputs are reported, and sizes stay dynamic."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wenet_fusion.export.targets import onnx_graph
from wenet_fusion.export.targets.onnx_graph import session, write_onnx

pytestmark = pytest.mark.usefixtures("float32")


class Ignores(nn.Module):
    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        return x + 1


def test_an_input_that_was_pruned_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x.onnx is not written: the exporter lost the input offset"):
        write_onnx(Ignores(), {"x": torch.zeros(2), "offset": torch.tensor(3)}, ["y"], {}, tmp_path / "x.onnx", {})
    assert list(tmp_path.iterdir()) == []


class Unflattens(nn.Module):
    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        y = x.unflatten(0, [rows.size(0), x.size(0) // rows.size(0)])
        return y[:, y.size(1) - 1 :]


@pytest.mark.parametrize("mended", [True, False])
def test_sizes_behind_unflatten_stay_dynamic(mended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this test fails because the exporter keeps sizes dynamic itself, remove our workaround."""
    if not mended:
        monkeypatch.setattr(onnx_graph, "_ConstantShapes", lambda: torch.no_grad())
    path, axes = tmp_path / "x.onnx", {"x": {0: "n"}, "rows": {0: "b"}}
    write_onnx(Unflattens(), {"x": torch.zeros(6, 4), "rows": torch.zeros(2)}, ["y"], axes, path, {})
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    found = session(path).run(None, {"x": x, "rows": np.zeros(2, np.float32)})[0]
    assert (found.shape == (2, 1, 4) and (found[:, 0] == x[[4, 9]]).all()) == mended
