"""The ONNX archive: verified, the same as the model in memory at any chunk size, whatever is beside it in a batch."""

import copy
import dataclasses
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import laws
import numpy as np
import onnx
import pytest
import torch
from conftest import default_dtype, tiny_recipe, tiny_trained
from hypothesis import example, given, settings
from hypothesis import strategies as st
from streams import FRAME, audio, heard_states, samples, step_op
from tones import ToneRun
from torch import Tensor, nn

from wenet_fusion.chunking import Chunking
from wenet_fusion.deployment import acoustic_model
from wenet_fusion.export import onnx_archive, onnx_graph
from wenet_fusion.export.onnx_archive import OneChunkEncoder, export_onnx_archive
from wenet_fusion.export.onnx_graph import operators, quantise_dynamic, session, write_onnx
from wenet_fusion.export.speech import read_speech
from wenet_fusion.export.verification import FLOAT32_TOLERANCE
from wenet_fusion.models.encoder import EncoderOutput, EncoderState
from wenet_fusion.models.exported import ExportedModel
from wenet_fusion.recipe import TrainedModel, load_trained
from wenet_fusion_runtime.acoustic_model import AcousticModel
from wenet_fusion_runtime.decoding import DecodingOptions, transcribe_offline
from wenet_fusion_runtime.model_file import load_model, read_meta
from wenet_fusion_runtime.onnx_backend import OnnxBackend
from wenet_fusion_runtime.recognizer import Recognizer
from wenet_fusion_runtime.result import joined_ids
from wenet_fusion_runtime.torch_backend import TorchState

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def archive(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "nested" / "model.onnx.zip"
    with default_dtype(torch.float32):
        export_onnx_archive(trained, path)
    return path


@pytest.fixture(scope="module")
def quantised(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "int8.onnx.zip"
    with default_dtype(torch.float32):
        export_onnx_archive(trained, path, "int8")
    return path


class Scores(NamedTuple):
    encoder_out: Tensor
    lengths: Tensor
    top_log_probs: Tensor
    blank_log_probs: Tensor


class Steps(nn.Module):
    """A file, or the model in memory, as the laws take it. Top ids are left out: two may be as good as equal."""

    def __init__(self, model: AcousticModel):
        super().__init__()
        self.model = model
        self.is_numpy = isinstance(model.backend, OnnxBackend)

    def init_state(self, batch: int, chunk: int, left: int) -> list[Tensor]:
        return self._tensors(self.model.init_state(batch, chunk, left))

    def step(
        self, x: Tensor, lengths: Tensor, chunk: int, left: int, state: list[Tensor]
    ) -> tuple[Scores, list[Tensor]]:
        own = [x.numpy() for x in state] if self.is_numpy else TorchState(state, chunk * left, fresh=True)
        scores, new = self.model.step(x.numpy(), lengths.tolist(), chunk, left, own)
        kept = (scores.encoder_out, scores.lengths, scores.log_probs, scores.blank)
        return Scores(*map(torch.from_numpy, kept)), self._tensors(new)

    def _tensors(self, state: Any) -> list[Tensor]:
        return [torch.as_tensor(x).clone() for x in (state if self.is_numpy else state.tensors)]


chunkings = st.builds(Chunking, st.sampled_from([4, 8]), st.integers(0, 3))


# --- the step


@settings(laws.random_geometries, max_examples=8)
@given(
    chunkings,
    st.lists(st.integers(1, 3), min_size=2, max_size=3),
    st.lists(st.integers(0, 3), min_size=2, max_size=3),
)
def test_split_and_batch_out_of_step(archive: Path, chunking: Chunking, blocks: list[int], heard: list[int]) -> None:
    model, block = Steps(load_model(archive)), chunking.size * FRAME
    cuts = [block * sum(blocks[: i + 1]) for i in range(len(blocks))]
    states = heard_states(model, chunking, heard)
    x = samples(0, len(heard), cuts[-1])
    op, lengths = step_op(model, chunking), torch.tensor([cuts[-1] - 100 * row for row in range(len(heard))])
    assert laws.split(op, laws.join(states), x, lengths, cuts[:-1]) <= FLOAT32_TOLERANCE
    xs = [x[row : row + 1, : lengths[row]] for row in range(len(heard))]
    assert laws.batch(op, laws.join, xs, states) <= FLOAT32_TOLERANCE


@settings(laws.random_geometries, max_examples=8)
@given(chunkings, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8000)), min_size=1, max_size=4))
def test_the_file_equals_the_model_in_memory(
    archive: Path, trained: TrainedModel, chunking: Chunking, streams: list[tuple[int, int]]
) -> None:
    """Rows out of step, of any length, with anything beyond their ends."""
    length = -(-max(4000, *(length for _, length in streams)) // FRAME) * FRAME
    x, lengths = samples(1, len(streams), length), torch.tensor([length for _, length in streams])
    x[~laws.mask(lengths, length)] = torch.nan
    outputs = []
    for model in (Steps(load_model(archive)), Steps(acoustic_model(trained))):
        state = laws.join(heard_states(model, chunking, [heard for heard, _ in streams]))
        outputs.append(laws.valid(step_op(model, chunking)(x, lengths, state)[0], lengths, length))
    assert laws.difference(*outputs) <= FLOAT32_TOLERANCE


@pytest.mark.parametrize("index", [0, 1, 3, 4, 7])
def test_the_laws_detect_a_state_that_is_forgotten(archive: Path, index: int) -> None:
    model, chunking = Steps(load_model(archive)), Chunking(4, 2)
    forgetful = laws.forgetful(
        step_op(model, chunking), lambda old, new: [old[i] if i == index else new[i] for i in range(len(new))]
    )
    x, block = samples(0, 1, 3 * 4 * FRAME), 4 * FRAME
    state, lengths = model.init_state(1, *chunking), torch.tensor([3 * block])
    assert laws.split(forgetful, state, x, lengths, [block, 2 * block]) > FLOAT32_TOLERANCE


@settings(laws.random_geometries, max_examples=3)
@given(
    chunking=st.sampled_from([Chunking(4, 4), Chunking(8, 2)]),
    length=st.integers(0, 26000),
    cuts=st.lists(st.integers(0, 26000), max_size=8),
)
def test_a_stream_in_any_cuts_equals_offline_evaluation(
    archive: Path, trained: TrainedModel, chunking: Chunking, length: int, cuts: list[int]
) -> None:
    options, sound = DecodingOptions(), audio()[:length]
    running = Recognizer(archive, options).create_stream(*chunking)
    for block in np.split(sound, sorted(cuts)):
        running.accept_waveform(block)
    running.finish()
    offline = transcribe_offline(acoustic_model(trained), sound, *chunking, options)
    assert joined_ids(running.finals) == joined_ids(offline)


# --- rescoring


@settings(laws.random_geometries, max_examples=8)
@example(frames=5, lengths=[0, 0], padding=0)
@given(
    frames=st.integers(1, 40),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    padding=st.integers(0, 2),
)
def test_rescoring_equals_the_model_in_memory(
    archive: Path, trained: TrainedModel, frames: int, lengths: list[int], padding: int
) -> None:
    """Empty hypotheses too, an axis of size 0, and whatever the padding holds."""
    generator = torch.Generator().manual_seed(frames)
    hyps = torch.randint(3, 13, (len(lengths), max(lengths) + padding), generator=generator)
    arguments = (laws.noise(frames, 1, frames, 16).numpy(), hyps.numpy(), np.array(lengths))
    found, expected = (model.backend.rescore(*arguments) for model in (load_model(archive), acoustic_model(trained)))
    assert found.shape == (len(lengths), 2)
    assert laws.difference(torch.from_numpy(found), torch.from_numpy(expected)) <= FLOAT32_TOLERANCE


def test_a_model_without_decoder(tiny_units: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_units)
    decoder = dataclasses.replace(recipe.model.decoder, layers=0, reverse_layers=0)
    loss = dataclasses.replace(recipe.model.loss, ctc_weight=1.0, reverse_weight=0.0)
    model = dataclasses.replace(recipe.model, decoder=decoder, loss=loss)
    path = tmp_path / "ctc.zip"
    export_onnx_archive(tiny_trained(dataclasses.replace(recipe, model=model)), path)
    assert set(zipfile.ZipFile(path).namelist()) == {"meta.json", "step.onnx"}
    assert transcribe_offline(load_model(path), audio(1.0), 4, 4, DecodingOptions())


def test_positions_as_products(tiny_units: Path, tmp_path: Path) -> None:
    """There is no bias then that would give the mask its shape."""
    recipe = tiny_recipe(tiny_units)
    encoder = dataclasses.replace(recipe.model.encoder, positions="products")
    trained = tiny_trained(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder)))
    record = export_onnx_archive(trained, tmp_path / "products.zip")
    assert record["verification"]["different_tokens"] == 0


# --- the record


def test_the_record(archive: Path, trained: TrainedModel) -> None:
    record = json.loads(zipfile.ZipFile(archive).read("meta.json"))
    assert (record["kind"], record["precision"], record["engine"]) == ("wenet_fusion.onnx", "float32", "onnxruntime")
    assert record["versions"]["onnx"] and record["versions"]["onnxruntime"]
    assert record["verification"]["largest_difference"] <= FLOAT32_TOLERANCE
    assert record["verification"]["operators"]["MatMul"] and record["verification"]["norm_operators"] == 0
    state = ExportedModel(onnx_archive.one_chunk_model(trained)).init_state(2, 4, 3)
    sizes = {"batch": 2, "cache": 12}
    described = [
        (getattr(torch, dtype), [sizes.get(size, size) for size in shape]) for _, dtype, shape in record["state"]
    ]
    assert described == [(x.dtype, list(x.shape)) for x in state]
    assert [info.compress_type for info in zipfile.ZipFile(archive).infolist()] == [zipfile.ZIP_STORED] * 3


# --- what is not kept


def changed(trained: TrainedModel, change: Callable[[nn.Module], Any]) -> TrainedModel:
    """A copy of a trained model whose network went through `change`."""
    model = copy.deepcopy(trained.model)
    with torch.no_grad():
        change(model)
    return dataclasses.replace(trained, model=model)


class SeesTooMuch(OneChunkEncoder):
    """Right from the moment when the cache is full."""

    def forward(self, x_BTF: Tensor, lengths_B: Tensor, chunking: Chunking, state: EncoderState) -> EncoderOutput:
        long_ago = state._replace(position=state.position + 1000)
        out = super().forward(x_BTF, lengths_B, chunking, long_ago)
        return out._replace(state=out.state._replace(position=out.state.position - 1000))


def test_a_graph_that_sees_what_is_not_there_is_not_kept(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_archive, "OneChunkEncoder", SeesTooMuch)
    with pytest.raises(ValueError, match="model.zip is not kept: it differs from the checkpoint"):
        export_onnx_archive(trained, tmp_path / "model.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_rescoring_that_differs_is_not_kept(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = onnx_archive.fused_model
    louder = changed(trained, lambda model: model.decoder.out.weight.add_(laws.noise(0, 13, 16)))
    monkeypatch.setattr(onnx_archive, "fused_model", lambda _: honest(louder))
    with pytest.raises(ValueError, match="model.zip is not kept: it differs from the checkpoint"):
        export_onnx_archive(trained, tmp_path / "model.zip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, module", [("LayerNormalization", nn.LayerNorm(16)), ("Sigmoid", nn.SiLU())])
def test_a_planted_operator_is_not_exported(
    name: str, module: nn.Module, trained: TrainedModel, tmp_path: Path
) -> None:
    planted = changed(trained, lambda model: setattr(model.encoder.layers[1].feed_forward_in, "dropout", module))
    with pytest.raises(ValueError, match=f"model.zip is not written: the exported step still runs .*{name}"):
        export_onnx_archive(planted, tmp_path / "model.zip")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_precision_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision float16-packed, an ONNX archive has float32 or int8"):
        export_onnx_archive(trained, tmp_path / "model.zip", "float16-packed")  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(
    package: str, trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}, .*pip install 'wenet-fusion\[onnx\]'"):
        export_onnx_archive(trained, tmp_path / "model.zip")
    assert list(tmp_path.iterdir()) == []


# --- int8


def test_int8_is_in_the_linear_layers_and_nowhere_else(quantised: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(quantised) as file:
        file.extractall(tmp_path)
    nodes = onnx.load(tmp_path / "step.onnx").graph.node
    products = [node.name for node in nodes if node.op_type == "MatMulInteger"]
    assert len(products) == 2 * 8 + 2  # of each layer, the subsampling's and the CTC head
    assert all("/encoder/" in name or "/ctc/" in name for name in products)
    assert not any("/fbank/" in node.name for node in nodes if "Quant" in node.op_type or "Integer" in node.op_type)
    assert operators(tmp_path / "step.onnx")["Conv"] == 5  # spectrum, subsampling, depthwise
    assert operators(tmp_path / "rescore.onnx")["MatMulInteger"] == 2 * 9


def test_int8_says_how_much_it_differs(quantised: Path) -> None:
    assert read_meta(quantised).precision == "int8-dynamic"
    checked = read_meta(quantised).verification
    assert FLOAT32_TOLERANCE < checked["largest_difference"] < 0.03
    assert checked["tolerance"] is None and checked["different_tokens"] >= 0


def test_int8_recognises_what_was_said(tone_run: ToneRun, tmp_path: Path) -> None:
    trained = load_trained(tone_run.checkpoint)
    speech = read_speech(tone_run.dev_list, 8000, 10)
    errors = export_onnx_archive(trained, tmp_path / "tones.zip", "int8", speech)["verification"]["errors"]
    assert errors["words"] > 10 and errors["before"] < 0.2
    assert errors["after"] <= errors["before"] + 0.05


# --- graphs


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
    """If the exporter once follows them by itself, the mending can go."""
    if not mended:
        monkeypatch.setattr(onnx_graph, "_ConstantShapes", lambda: torch.no_grad())
    path, axes = tmp_path / "x.onnx", {"x": {0: "n"}, "rows": {0: "b"}}
    write_onnx(Unflattens(), {"x": torch.zeros(6, 4), "rows": torch.zeros(2)}, ["y"], axes, path, {})
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    found = session(path).run(None, {"x": x, "rows": np.zeros(2, np.float32)})[0]
    assert (found.shape == (2, 1, 4) and (found[:, 0] == x[[4, 9]]).all()) == mended


def test_metadata_survives_quantisation(tmp_path: Path) -> None:
    exact, rounded = tmp_path / "x.onnx", tmp_path / "x.int8.onnx"
    write_onnx(nn.Linear(8, 4), {"x": torch.zeros(3, 8)}, ["y"], {"x": {0: "n"}}, exact, {"head": "4"})
    quantise_dynamic(exact, rounded)
    assert session(rounded).get_modelmeta().custom_metadata_map["head"] == "4"
    x = laws.noise(0, 5, 8).numpy()
    before, after = (session(path).run(None, {"x": x})[0] for path in (exact, rounded))
    assert before.shape == (5, 4) and 0 < np.abs(after - before).max() < 0.05
