"""ONNX archives that are not kept: graphs that differ from the model, unfolded norms, missing packages."""

import sys
from pathlib import Path

import pytest
from conftest import changed
from support.model import laws
from torch import Tensor, nn

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.export.targets import onnx_archive
from wenet_fusion.export.targets.onnx_archive import OneChunkEncoder
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.encoder import EncoderOutput
from wenet_fusion.model.encoder_state import EncoderState
from wenet_fusion.trained_model import TrainedModel

pytestmark = pytest.mark.usefixtures("float32")
ONNX = ExportOptions("onnx")


class SeesTooMuch(OneChunkEncoder):
    """An encoder that is correct only once the cache is full."""

    def forward(self, x_BTF: Tensor, lengths_B: Tensor, chunking: Chunking, state: EncoderState) -> EncoderOutput:
        long_ago = state._replace(position=state.position + 1000)
        out = super().forward(x_BTF, lengths_B, chunking, long_ago)
        return out._replace(state=out.state._replace(position=out.state.position - 1000))


def test_a_graph_that_sees_an_empty_cache_is_not_kept(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_archive, "OneChunkEncoder", SeesTooMuch)
    with pytest.raises(ValueError, match="model.zip is not kept: it differs from the checkpoint"):
        export_model(trained, tmp_path / "model.zip", ONNX)
    assert list(tmp_path.iterdir()) == []


def test_a_rescoring_that_differs_is_not_kept(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = onnx_archive.fused_model
    louder = changed(trained, lambda model: model.decoder.out.weight.add_(laws.noise(0, 13, 16)))
    monkeypatch.setattr(onnx_archive, "fused_model", lambda _: honest(louder))
    with pytest.raises(ValueError, match="model.zip is not kept: it differs from the checkpoint"):
        export_model(trained, tmp_path / "model.zip", ONNX)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, module", [("LayerNormalization", nn.LayerNorm(16)), ("Sigmoid", nn.SiLU())])
def test_a_planted_operator_is_not_exported(
    name: str, module: nn.Module, trained: TrainedModel, tmp_path: Path
) -> None:
    planted = changed(trained, lambda model: setattr(model.encoder.layers[1].feed_forward_in.op, "dropout", module))
    with pytest.raises(ValueError, match=f"model.zip is not kept: its step still runs .*{name}"):
        export_model(planted, tmp_path / "model.zip", ONNX)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_precision_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="onnx has no precision float16-packed; choose from float32, int8, int8-dynamic"
    ):
        export_model(trained, tmp_path / "model.zip", ExportOptions("onnx", "float16-packed"))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(
    package: str, trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}, .*pip install 'wenet-fusion\[onnx\]'"):
        export_model(trained, tmp_path / "model.zip", ONNX)
    assert list(tmp_path.iterdir()) == []
