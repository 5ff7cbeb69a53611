"""Writes the step of one chunk size as a torch.export program (.pt2), verified. Knows no search and no rescoring.

Experimental: TorchScript is deprecated, and this is what follows it. The runtime does not read these files yet.

Shapes: B rows, N samples of one chunk.
"""

import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, List, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from wenet_fusion.chunking import Chunking
from wenet_fusion.deployment import FileForm, acoustic_model, fused_model, meta_record
from wenet_fusion.export.verification import FLOAT32_TOLERANCE, Verification, generated_audio, relative_difference
from wenet_fusion.files import replacing
from wenet_fusion.models.exported import ExportedModel, Scores
from wenet_fusion.models.operators import NORM_OPERATORS
from wenet_fusion.recipe import TrainedModel
from wenet_fusion_runtime.acoustic_model import AcousticModel, StepScores, join
from wenet_fusion_runtime.meta import BATCH
from wenet_fusion_runtime.model_file import META

KIND = "wenet_fusion.program"


class ChunkStep(nn.Module):
    """`ExportedModel.step` under one chunking."""

    def __init__(self, model: ExportedModel, chunking: Chunking):
        super().__init__()
        self.model, self.chunking = model, chunking

    def forward(self, samples: Tensor, lengths: Tensor, state: List[Tensor]) -> Tuple[Scores, List[Tensor]]:
        return self.model.step(samples, lengths, *self.chunking, state)


def export_program(trained: TrainedModel, path: Path) -> dict[str, Any]:
    """Exports the step of the default chunking: one whole chunk per call, for any number of rows. Experimental.

    A stream's last block is padded to a whole chunk; `lengths` says how much of it is valid. The state starts as zeros;
    meta.json describes it. Results are those of `ExportedModel.step`. The program is saved, loaded again and compared
    with the model in memory on generated audio; only then is it kept.

    Returns:
        The contents of meta.json, which `torch.export.load` returns in its `extra_files`.

    Raises:
        ValueError: if the program does not reproduce the model; nothing is kept then.
    """
    model, chunking = fused_model(trained), trained.config.training.chunking.served()[-1]
    model.decoder = model.reverse_decoder = None  # weights that no step uses
    step = ChunkStep(ExportedModel(model), chunking).eval()
    record = {
        **meta_record(trained, {}, FileForm(KIND)), "experimental": True, "chunkings": [chunking._asdict()],
        "decoder": False, "reverse_decoder": False, "state": describe_state(step),
    }
    program, reference = trace(step), acoustic_model(trained)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        _save(program, record, part)
        record["verification"] = compare(load_program(part), reference, path)
        _save(program, record, part)
        written = load_program(part)
        if written.record != record:
            raise ValueError(f"{path} is not kept: its {META} is not what was written; check the disk and export again")
        compare(written, reference, path)
    return record


def describe_state(step: ChunkStep) -> list[list[Any]]:
    """Name, dtype and shape of each tensor of a stream's state."""
    state = step.model.init_state(1, *step.chunking)
    return [[f"state_{i}", str(x.dtype).removeprefix("torch."), [BATCH, *x.shape[1:]]] for i, x in enumerate(state)]


def trace(step: ChunkStep) -> ExportedProgram:
    """The program of one chunk; nothing but the number of rows varies."""
    batch, samples = 2, step.chunking.size * step.model.model.frame_samples
    state, rows = example_state(step, batch), {0: Dim(BATCH)}
    example = (torch.zeros(batch, samples), torch.full([batch], samples), state)
    with _quiet(), torch.no_grad():
        return torch.export.export(step, example, dynamic_shapes=(rows, rows, [rows] * len(state)))


def example_state(step: ChunkStep, batch: int) -> List[Tensor]:
    """A fresh state without shared tensors, which the exporter would take for one and the same input."""
    return [x.clone() for x in step.model.init_state(batch, *step.chunking)]


class LoadedProgram(NamedTuple):
    program: ExportedProgram
    record: dict[str, Any]  # contents of its meta.json


def load_program(path: Path) -> LoadedProgram:
    """Reads what `export_program` wrote."""
    files = {META: ""}
    with _quiet(), open(path, "rb") as file:
        program = torch.export.load(file, extra_files=files)
    return LoadedProgram(program, json.loads(files[META]))


def compare(loaded: LoadedProgram, reference: AcousticModel, path: Path) -> dict[str, Any]:
    """Steps generated audio, rows of different lengths, through a program; compares with one offline step.

    Raises:
        ValueError: if they differ by more than float32 explains.
    """
    meta = reference.meta
    audio = generated_audio(meta.sample_rate, np.random.default_rng(0))
    lengths = np.array([len(audio), len(audio) // 2 + 7, len(audio) - 1])
    chunk_samples = meta.default_chunk * meta.frame_samples
    samples = np.zeros((len(lengths), len(audio) + -len(audio) % chunk_samples), dtype=np.float32)
    samples[:, : len(audio)] = [audio, audio[::-1], 0.1 * audio]
    expected, _ = reference.step(
        samples, lengths, meta.default_chunk, meta.default_left, reference.init_state(len(lengths), 1, 0)
    )
    step, blocks = loaded.program.module(), []
    described = loaded.record["state"]
    state = [torch.zeros([len(lengths), *shape[1:]], dtype=getattr(torch, dtype)) for _, dtype, shape in described]
    with torch.no_grad():
        for start in range(0, samples.shape[1], chunk_samples):
            valid = torch.from_numpy((lengths - start).clip(0, chunk_samples))
            scores, state = step(torch.from_numpy(samples[:, start : start + chunk_samples]), valid, state)
            blocks.append(StepScores(*(field.numpy() for field in scores)))
    found, worst, different = join(blocks), 0.0, 0
    for row in range(len(lengths)):
        (one, one_out), (other, other_out) = found.row(row), expected.row(row)
        pairs = ((one_out, other_out), (one.log_probs, other.log_probs), (one.blank, other.blank))
        worst = max(worst, *(relative_difference(value, target) for value, target in pairs))
        clear = other.log_probs[:, 0] - other.log_probs[:, 1] > 10 * FLOAT32_TOLERANCE
        different += int(((one.ids[:, 0] != other.ids[:, 0]) & clear).sum())
    frames = int(expected.lengths.sum())
    checked = Verification(worst, 0.0, frames, different, len(lengths), (meta.default_chunk,))
    checked.raise_if_different(path)
    return {**checked.summary(), "norm_operators": _norms(loaded.program)}


def _norms(program: ExportedProgram) -> int:
    names = (str(node.target) for node in program.graph.nodes if node.op == "call_function")
    return sum(any(pattern in name for pattern in NORM_OPERATORS) for name in names)


def _save(program: ExportedProgram, record: dict[str, Any], path: Path) -> None:
    """By way of the memory: torch's own writer ends the process when a disk is full."""
    content = io.BytesIO()
    with _quiet():
        torch.export.save(program, content, extra_files={META: json.dumps(record, ensure_ascii=False)})
    path.write_bytes(content.getbuffer())


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
