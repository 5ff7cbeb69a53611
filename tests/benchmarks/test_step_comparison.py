"""The comparison of steps times every variant in one table."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from support.wenet.real_wenet import wenet_module

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "fbgemm" not in torch.backends.quantized.supported_engines, reason="torch has no FBGEMM on this machine"
    ),
]
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import step_comparison  # noqa: E402
from native_step import QUICK, QUICK_VOCABULARY  # noqa: E402
from parts.random_models import Shape  # noqa: E402
from parts.wenet_models import write_exports  # noqa: E402
from step_comparison import CHUNKINGS, WENET_FILES, steps_of, wenet_models  # noqa: E402


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of WeNet with the files of WeNet's export scripts."""
    wenet_module("utils.init_model")
    return write_exports(tmp_path_factory.mktemp("wenet") / "exp", QUICK, QUICK_VOCABULARY, CHUNKINGS, seed=0)


def test_all_variants_take_turns(installed_kernels: ModuleType, tmp_path: Path) -> None:
    arguments = ["--quick", "--timed", "1", "--batches", "1", "2", "--output", str(tmp_path)]
    assert step_comparison.main(arguments) == 0
    record = json.loads((tmp_path / f"step_comparison_{installed_kernels.families()[0]}.json").read_text())
    assert list(record["steps"]) == ["16/4 x 1", "16/4 x 2", "4/16 x 1", "4/16 x 2"]
    text = (tmp_path / f"step_comparison_{installed_kernels.families()[0]}.md").read_text()
    for times in record["steps"].values():
        assert len(times) == 2 + 4
        ours = min(time["median"] for name, time in times.items() if name.startswith("FusionFormer"))
        assert all(f"| {time['median']:.2f} | {time['median'] / ours:.2f} |" in text for time in times.values())


def test_the_compiled_step_takes_turns(installed_kernels: ModuleType, tmp_path: Path) -> None:
    arguments = ["--quick", "--timed", "1", "--batches", "1", "2", "--compiled", "--output", str(tmp_path)]
    assert step_comparison.main(arguments) == 0
    record = json.loads((tmp_path / f"step_comparison_{installed_kernels.families()[0]}.json").read_text())
    compiled = {label for label, times in record["steps"].items() if "FusionFormer, AOTInductor float32" in times}
    assert compiled == {"16/4 x 1", "4/16 x 1"}


def test_wenets_own_exports_take_turns(installed_kernels: ModuleType, tmp_path: Path) -> None:
    package = Path(wenet_module("utils.init_model").__file__).parents[1]
    arguments = ["--quick", "--timed", "1", "--batches", "1", "--wenet", str(package.parent), "--output", str(tmp_path)]
    assert step_comparison.main(arguments) == 0
    record = json.loads((tmp_path / f"step_comparison_{installed_kernels.families()[0]}.json").read_text())
    names = [f"WeNet's export, {variant}" for variant in WENET_FILES]
    assert all(list(times)[-len(names) :] == names for times in record["steps"].values())
    expected = "conformer of 2 layers, 16 wide, feed-forward 32, 20 tokens"
    assert (
        f"WeNet's export: {expected}"
        in (tmp_path / f"step_comparison_{installed_kernels.families()[0]}.md").read_text()
    )


def test_wenets_exports_have_the_weights_of_one_checkpoint(experiment: Path) -> None:
    onnx = pytest.importorskip("onnx")
    weights = torch.load(experiment / "final.pt")
    scripted = torch.jit.load(experiment / "final.zip").state_dict()
    assert all(torch.equal(scripted[name], weight) for name, weight in weights.items())
    for size, left in CHUNKINGS:
        folder = experiment / f"onnx_{size}_{left}"
        graph = onnx.load(folder / "encoder.onnx").graph
        found = {f"encoder.{tensor.name}": onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        shared = found.keys() & weights.keys()  # the matrices are transposed and have other names
        assert len(shared) > 10 * QUICK.layers
        assert all(np.array_equal(found[name], weights[name].numpy()) for name in shared)
        operators = {node.op_type for node in onnx.load(folder / "encoder.quant.onnx").graph.node}
        assert {"DynamicQuantizeLinear", "MatMulInteger"} <= operators


@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_wenets_graphs_step_with_their_chunks(experiment: Path, chunking: tuple[int, int]) -> None:
    models = wenet_models(experiment, chunking)
    assert [each.variant for each in models] == list(WENET_FILES)
    for each in models:
        assert len(steps_of(each, Shape(chunking, 2), np.random.default_rng(0))()) == 2
        if "onnxruntime" in each.variant:
            assert (each.model.meta.default_chunk, each.model.meta.default_left) == chunking


def test_a_folder_without_exports_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has none of final.zip, final_quant.zip, encoder.onnx"):
        wenet_models(tmp_path, CHUNKINGS[0])
