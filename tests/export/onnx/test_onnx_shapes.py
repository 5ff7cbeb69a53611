"""Every exported ONNX graph loads at onnxruntime's default log level without a warning about its shapes."""

import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from conftest import default_dtype
from support.model.streams import audio

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.kernels import onnx_int8
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.export.targets.onnx_archive import build_graphs, one_chunk_model
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.trained_model import TrainedModel

pytestmark = pytest.mark.usefixtures("float32")

LOAD = """
import sys
import onnxruntime
for path in sys.argv[1:]:
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
"""


def complaints(graphs: list[Path]) -> str:
    """Load graphs in a new process, and return what it prints."""
    assert graphs
    done = subprocess.run([sys.executable, "-c", LOAD, *map(str, graphs)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def write_graphs(trained: TrainedModel, folder: Path, precision: str) -> list[Path]:
    """Write the graphs of an archive without verification, because the tiny model's text cannot judge int8."""
    with default_dtype(torch.float32):
        graphs = build_graphs(one_chunk_model(trained, precision, [audio(2.0)]), precision)
    for name, content in graphs.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in graphs]


@pytest.mark.parametrize("precision", ["float32", "int8", "int8-dynamic"])
def test_the_graphs_of_an_archive_load_in_silence(trained: TrainedModel, tmp_path: Path, precision: str) -> None:
    graphs = write_graphs(trained, tmp_path, precision)
    assert [graph.name for graph in graphs] == ["step.onnx", "rescore.onnx"]
    assert complaints(graphs) == ""


def test_the_graphs_in_a_float32_archive_are_those_that_were_tested(trained: TrainedModel, tmp_path: Path) -> None:
    export_model(trained, tmp_path / "model.zip", ExportOptions("onnx"))
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path)
    assert complaints([tmp_path / "step.onnx", tmp_path / "rescore.onnx"]) == ""


@pytest.mark.parametrize("chunking", [Chunking(8, 2), Chunking(8, -1)], ids=str)
def test_wenets_graphs_load_in_silence(trained: TrainedModel, tmp_path: Path, chunking: Chunking) -> None:
    export_model(trained, tmp_path, ExportOptions("wenet-onnx", "int8-dynamic", chunking))
    graphs = sorted(tmp_path.glob("*.onnx"))
    assert len(graphs) == 6
    assert complaints(graphs) == ""


@pytest.mark.parametrize("precision", ["float32", "int8-dynamic"])
def test_sherpas_graph_loads_in_silence(trained: TrainedModel, tmp_path: Path, precision: str) -> None:
    export_model(trained, tmp_path / "model.onnx", ExportOptions("sherpa-onnx", precision, Chunking(8, 2)))
    assert complaints([tmp_path / "model.onnx"]) == ""


def test_a_product_with_the_shape_of_its_input_is_detected(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defect that this file guards against."""
    monkeypatch.setattr(
        onnx_int8, "_typed", lambda value, like, dtype, *_: value.setType(like.type().with_dtype(dtype))
    )
    assert "Error merging shape info" in complaints(write_graphs(trained, tmp_path, "int8"))


def test_the_products_of_int8_have_their_own_width(trained: TrainedModel, tmp_path: Path) -> None:
    """Every product's last axis is that of its weight, and rows and frames have any size."""
    step, _ = write_graphs(trained, tmp_path, "int8")
    graph = onnx.load(str(step)).graph
    widths = {tensor.name: tensor.dims[-1] for tensor in graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 2 * 8 + 2
    for node in products:
        *others, last = shapes[node.output[0]]
        assert last.dim_value == widths[node.input[1]]
        assert not any(size.HasField("dim_value") for size in others)
