"""The export flow: defaults, tolerances, counts, and a test that each check is needed."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import changed, tiny_recipe, tiny_trained
from support.model.streams import audio
from torch import Tensor, nn

from wenet_fusion.export.description import describe_export
from wenet_fusion.export.flow import TARGETS, export_model
from wenet_fusion.export.speech import Speech
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.export.targets.onnx_graph import quantise_dynamic, write_onnx
from wenet_fusion.export.verification import tolerance
from wenet_fusion.trained_model import TrainedModel

pytestmark = pytest.mark.usefixtures("float32")


def test_tolerances_are_those_that_the_guide_names() -> None:
    found = {name: tolerance(name) for target in TARGETS.values() for name in target.precisions}
    assert found == {"float32": 1e-4, "float16-packed": 4e-3, "int8": np.inf, "int8-dynamic": np.inf}


def test_only_runtimes_without_batches_are_verified_without() -> None:
    assert {name for name, target in TARGETS.items() if not target.batches} == {"wenet-onnx", "sherpa-onnx"}
    assert {name for name, target in TARGETS.items() if not target.holds_findings} == {"wenet-onnx", "sherpa-onnx"}


class MixesRows(nn.Module):
    """A model that is right for one row and wrong for several: an utterance depends on its neighbours."""

    def __init__(self, cmvn: nn.Module):
        super().__init__()
        self.cmvn = cmvn

    def forward(self, x: Tensor) -> Tensor:
        y = self.cmvn(x)
        return y + 0.1 * (y.sum(dim=0, keepdim=True) / y.size(0) - y)


@pytest.mark.parametrize("target", ["torchscript", "onnx"])
def test_a_file_whose_rows_mix_is_not_kept(trained: TrainedModel, tmp_path: Path, target: str) -> None:
    """Only the first comparison makes batches of several rows: it has speech beside the generated audio."""
    mixing = changed(trained, lambda model: setattr(model, "cmvn", MixesRows(model.cmvn)))
    with pytest.raises(ValueError, match="is not kept: it differs from the checkpoint"):
        export_model(mixing, tmp_path / "model.zip", ExportOptions(target), [Speech("a", audio(1.0), "one")])
    assert list(tmp_path.iterdir()) == []


def test_the_default_chunking_is_the_largest_that_the_model_serves(trained: TrainedModel, tmp_path: Path) -> None:
    served = trained.config.training.chunking.served()
    assert served[0].size < served[-1].size
    exported = export_model(trained, tmp_path / "model.onnx", ExportOptions("sherpa-onnx"))
    assert exported.metadata["chunk_size"] == str(served[-1].size)
    assert f"--wenet-ctc-chunk-size={served[-1].size} " in exported.command


def test_norms_that_cannot_be_folded_are_counted(tiny_units: Path, tmp_path: Path) -> None:
    """A Conformer for comparisons keeps its LayerNorms; the command reports this and the cost of the activation."""
    recipe = tiny_recipe(tiny_units)
    encoder = dataclasses.replace(recipe.model.encoder, norm="layer", activation="swish")
    trained = tiny_trained(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder)))
    options = ExportOptions("onnx")
    exported = export_model(trained, tmp_path / "model.zip", options)
    norms = exported.findings.norm_operators
    assert norms == exported.findings.operators["LayerNormalization"] > 5
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert json.loads(archive.read("meta.json"))["verification"]["norm_operators"] == norms
    described = "\n".join(describe_export(exported, options, trained.config.training.chunking.served()[-1]))
    assert f"float32; {norms} normalisation operators in the step" in described
    assert "note: activation swish adds" in described


def test_dynamic_int8_weights_have_seven_bits(tmp_path: Path) -> None:
    """With eight, sums of sixteen bits overflow on x86 processors without VNNI."""
    torch.manual_seed(0)
    write_onnx(nn.Linear(64, 8), {"x": torch.zeros(3, 64)}, ["y"], {"x": {0: "n"}}, tmp_path / "exact.onnx", {})
    quantise_dynamic(tmp_path / "exact.onnx", tmp_path / "int8.onnx")
    tensors = map(onnx.numpy_helper.to_array, onnx.load(str(tmp_path / "int8.onnx")).graph.initializer)
    (weight,) = [values for values in tensors if values.dtype == np.int8 and values.ndim == 2]
    assert 32 < np.abs(weight.astype(int)).max() <= 64


def test_an_unknown_target_names_the_known_ones(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--format tflite is unknown; choose from torchscript, onnx, wenet-onnx"):
        export_model(trained, tmp_path / "model", ExportOptions("tflite"))
