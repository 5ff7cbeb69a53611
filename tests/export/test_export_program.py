"""The torch.export program: equal to the model in memory for any number of rows, and refused otherwise."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import changed, default_dtype
from support.model import laws
from support.model.streams import FRAME, samples
from torch import nn

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.export.targets import torch_program as program_module
from wenet_fusion.export.targets.torch_program import LoadedProgram, load_program, program_model
from wenet_fusion.export.verification import FLOAT32_TOLERANCE
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.trained_model import TrainedModel, acoustic_model

PT2 = ExportOptions("pt2")
CHUNKING = Chunking(8, 2)  # the tiny model's default

pytestmark = [pytest.mark.usefixtures("float32"), pytest.mark.slow]


@pytest.fixture(scope="module")
def path(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "nested" / "model.pt2"
    with default_dtype(torch.float32):
        export_model(trained, path, PT2)
    return path


@pytest.fixture(scope="module")
def loaded(path: Path) -> LoadedProgram:
    return load_program(path)


@pytest.mark.parametrize("lengths", [[2560], [6000, 5120], [100, 0, 7680]])
def test_the_program_equals_the_model_in_memory(
    loaded: LoadedProgram, trained: TrainedModel, lengths: list[int]
) -> None:
    """Any number of rows; a call may hold several chunks, the last one short."""
    reference = acoustic_model(trained)
    frames = -(-max(lengths) // FRAME)
    x, outs = samples(0, len(lengths), frames * FRAME).float().numpy(), []
    for model in (program_model(loaded, reference), reference):
        out, _ = model.step(x, lengths, *CHUNKING, model.init_state(len(lengths), *CHUNKING))
        outs.append([torch.from_numpy(field) for field in (out.encoder_out, out.log_probs, out.blank)])
        assert out.lengths.tolist() == [-(-length // FRAME) for length in lengths]
    valid = [laws.valid(scores, torch.tensor(lengths), frames * FRAME) for scores in outs]
    assert laws.difference(*valid) <= FLOAT32_TOLERANCE


def test_the_rows_of_a_state(loaded: LoadedProgram, trained: TrainedModel) -> None:
    model = program_model(loaded, acoustic_model(trained))
    _, state = model.step(samples(1, 3, 2560).float().numpy(), [2560] * 3, *CHUNKING, model.init_state(3, *CHUNKING))
    rows = model.split_state(state)
    assert len(rows) == 3 and laws.difference(model.concat_states(rows), state) == 0


def test_the_record(loaded: LoadedProgram, trained: TrainedModel) -> None:
    record = loaded.record
    assert (record["kind"], record["experimental"]) == ("wenet_fusion.program", True)
    assert record["chunkings"] == [record["default_chunking"]] == [CHUNKING._asdict()]
    assert not record["decoder"] and not any("decoder" in name for name in loaded.program.state_dict)
    checked = record["verification"]
    assert checked["largest_difference"] <= FLOAT32_TOLERANCE
    assert (checked["different_tokens"], checked["norm_operators"], checked["chunk_sizes"]) == (0, 0, [8])
    assert record["state"][4] == ["state_4", "float32", ["batch", 16, 32]]


def test_a_traced_state_of_shared_tensors_gives_a_wrong_program_which_is_not_kept(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bug that `example_state` prevents: the program is right for a fresh state and wrong afterwards."""

    def shared(step: Any, batch: int) -> list[torch.Tensor]:
        tensors: dict[torch.Size, torch.Tensor] = {}
        return [tensors.setdefault(x.shape, x) for x in step.model.init_state(batch, *step.chunking)]

    monkeypatch.setattr(program_module, "example_state", shared)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'model.pt2'} is not kept: it differs")):
        export_model(trained, tmp_path / "model.pt2", PT2)
    assert list(tmp_path.iterdir()) == []


def test_a_program_of_other_weights_is_not_kept(
    path: Path, trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = changed(trained, lambda model: model.encoder.layers[0].attention.op.qkv.linear.weight.add_(0.01))
    monkeypatch.setattr(program_module, "trace", lambda _: load_program(path).program)
    with pytest.raises(ValueError, match="is not kept: it differs from the checkpoint by"):
        export_model(other, tmp_path / "model.pt2", PT2)
    assert list(tmp_path.iterdir()) == []


def test_a_norm_that_is_left_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    planted = changed(
        trained, lambda model: setattr(model.encoder.layers[1].feed_forward_in.op, "dropout", nn.LayerNorm(16))
    )
    with pytest.raises(ValueError, match="model.pt2 is not kept: its step still runs .*layer_norm"):
        export_model(planted, tmp_path / "model.pt2", PT2)
    assert list(tmp_path.iterdir()) == []
