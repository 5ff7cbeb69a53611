"""The ONNX archive: verified, and equal to the model in memory at any chunk size and in any batch."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import default_dtype, tiny_recipe, tiny_trained
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.model import laws
from support.model.onnx_steps import Steps
from support.model.streams import FRAME, audio, samples, states_after, step_op
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.results.result import joined_ids
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.offline import transcribe_offline
from wenet_fusion_runtime.stream.recognizer import Recognizer

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.export.targets import onnx_archive
from wenet_fusion.export.verification import FLOAT32_TOLERANCE
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.trained_model import TrainedModel, acoustic_model

pytestmark = pytest.mark.usefixtures("float32")
ONNX = ExportOptions("onnx")


@pytest.fixture(scope="module")
def archive(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "nested" / "model.onnx.zip"
    with default_dtype(torch.float32):
        export_model(trained, path, ONNX)
    return path


chunkings = st.builds(Chunking, st.sampled_from([4, 8]), st.integers(0, 3))


# --- the step


@settings(laws.random_geometries, max_examples=8)
@given(
    chunkings,
    st.lists(st.integers(1, 3), min_size=2, max_size=3),
    st.lists(st.integers(0, 3), min_size=2, max_size=3),
)
def test_split_and_batch_out_of_step(archive: Path, chunking: Chunking, blocks: list[int], past: list[int]) -> None:
    model, block = Steps(load_model(archive)), chunking.size * FRAME
    cuts = [block * sum(blocks[: i + 1]) for i in range(len(blocks))]
    states = states_after(model, chunking, past)
    x = samples(0, len(past), cuts[-1])
    op, lengths = step_op(model, chunking), torch.tensor([cuts[-1] - 100 * row for row in range(len(past))])
    assert laws.split(op, laws.join(states), x, lengths, cuts[:-1]) <= FLOAT32_TOLERANCE
    xs = [x[row : row + 1, : lengths[row]] for row in range(len(past))]
    assert laws.batch(op, laws.join, xs, states) <= FLOAT32_TOLERANCE


@settings(laws.random_geometries, max_examples=8)
@given(chunkings, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8000)), min_size=1, max_size=4))
def test_the_file_equals_the_model_in_memory(
    archive: Path, trained: TrainedModel, chunking: Chunking, streams: list[tuple[int, int]]
) -> None:
    """Rows are out of step and of any length, with garbage beyond their ends."""
    length = -(-max(4000, *(length for _, length in streams)) // FRAME) * FRAME
    x, lengths = samples(1, len(streams), length), torch.tensor([length for _, length in streams])
    x[~laws.mask(lengths, length)] = torch.nan
    outputs = []
    for model in (Steps(load_model(archive)), Steps(acoustic_model(trained))):
        state = laws.join(states_after(model, chunking, [chunks for chunks, _ in streams]))
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
    """Hypotheses may be empty (an axis of size 0), and padding may hold any values."""
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
    export_model(tiny_trained(dataclasses.replace(recipe, model=model)), path, ONNX)
    assert set(zipfile.ZipFile(path).namelist()) == {"meta.json", "step.onnx"}
    assert transcribe_offline(load_model(path), audio(1.0), 4, 4, DecodingOptions())


def test_positions_as_products(tiny_units: Path, tmp_path: Path) -> None:
    """Without a position bias, nothing else gives the mask its shape."""
    recipe = tiny_recipe(tiny_units)
    encoder = dataclasses.replace(recipe.model.encoder, positions="rel_pos")
    trained = tiny_trained(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder)))
    record = export_model(trained, tmp_path / "products.zip", ONNX).metadata
    assert record["verification"]["different_tokens"] == 0


# --- the record


def test_the_record(archive: Path, trained: TrainedModel) -> None:
    record = json.loads(zipfile.ZipFile(archive).read("meta.json"))
    assert (record["kind"], record["precision"], record["engine"]) == ("wenet_fusion.onnx", "float32", "onnxruntime")
    assert record["versions"]["onnx"] and record["versions"]["onnxruntime"]
    assert record["verification"]["largest_difference"] <= FLOAT32_TOLERANCE
    assert record["verification"]["operators"]["MatMul"] and record["verification"]["norm_operators"] == 0
    state = onnx_archive.one_chunk_model(trained).init_state(2, 4, 3)
    sizes = {"batch": 2, "cache": 12}
    described = [
        (getattr(torch, dtype), [sizes.get(size, size) for size in shape]) for _, dtype, shape in record["state"]
    ]
    assert described == [(x.dtype, list(x.shape)) for x in state]
    assert [info.compress_type for info in zipfile.ZipFile(archive).infolist()] == [zipfile.ZIP_STORED] * 3
