"""The torch.export program: the same as the model in memory, for any number of rows; refused where it is not."""

import copy
import dataclasses
import re
from pathlib import Path

import laws
import pytest
import torch
from conftest import default_dtype
from streams import FRAME, samples, step_op
from torch import Tensor, nn

from wenet_fusion.chunking import Chunking
from wenet_fusion.deployment import fused_model
from wenet_fusion.export import program as program_module
from wenet_fusion.export.program import LoadedProgram, export_program, load_program
from wenet_fusion.export.verification import FLOAT32_TOLERANCE
from wenet_fusion.models.exported import ExportedModel, Scores
from wenet_fusion.recipe import TrainedModel

CHUNKING = Chunking(8, 2)  # the tiny model's default

pytestmark = [pytest.mark.usefixtures("float32"), pytest.mark.slow]


@pytest.fixture(scope="module")
def path(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "nested" / "model.pt2"
    with default_dtype(torch.float32):
        export_program(trained, path)
    return path


@pytest.fixture(scope="module")
def loaded(path: Path) -> LoadedProgram:
    return load_program(path)


class Steps(nn.Module):
    """A program under the interface of the model in memory; a call may hold several chunks, the last one short."""

    def __init__(self, loaded: LoadedProgram):
        super().__init__()
        self.program = loaded.program.module()

    def step(
        self, x: Tensor, lengths: Tensor, chunk: int, left: int, state: list[Tensor]
    ) -> tuple[Scores, list[Tensor]]:
        size, blocks = chunk * FRAME, []
        for start in range(0, x.size(1), size):
            block = nn.functional.pad(x[:, start : start + size], (0, max(start + size - x.size(1), 0)))
            scores, state = self.program(block, (lengths - start).clamp(0, size), state)
            blocks.append(scores)
        frames = x.size(1) // FRAME
        whole = [sum(parts) if parts[0].dim() == 1 else torch.cat(parts, dim=1)[:, :frames] for parts in zip(*blocks)]
        return tuple(whole), state


@pytest.mark.parametrize("lengths", [[2560], [6000, 5120], [100, 0, 7680]])
def test_the_program_equals_the_model_in_memory(
    loaded: LoadedProgram, trained: TrainedModel, lengths: list[int]
) -> None:
    memory = ExportedModel(fused_model(trained)).eval()
    x = samples(0, len(lengths), max(lengths)).float()
    with torch.no_grad():
        found, expected = (
            step_op(model, CHUNKING)(x, torch.tensor(lengths), memory.init_state(len(lengths), *CHUNKING))[0]
            for model in (Steps(loaded), memory)
        )
    frames = -(-max(lengths) // FRAME) * FRAME
    valid = [laws.valid(scores, torch.tensor(lengths), frames) for scores in (found, expected)]
    assert laws.difference(*valid) <= FLOAT32_TOLERANCE


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
    """The trap that `example_state` steps around: right from a fresh state, wrong from then on."""
    monkeypatch.setattr(
        program_module, "example_state", lambda step, batch: step.model.init_state(batch, *step.chunking)
    )
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'model.pt2'} is not kept: it differs")):
        export_program(trained, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_program_of_other_weights_is_not_kept(
    path: Path, trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(trained, model=copy.deepcopy(trained.model))
    with torch.no_grad():
        other.model.encoder.layers[0].attention.qkv.linear.weight.add_(0.01)
    monkeypatch.setattr(program_module, "trace", lambda _: load_program(path).program)
    with pytest.raises(ValueError, match="is not kept: it differs from the checkpoint by"):
        export_program(other, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []
