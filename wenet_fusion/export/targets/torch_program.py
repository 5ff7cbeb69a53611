"""Writes the step of one chunk size as a torch.export program (.pt2), verified. Knows no search and no rescoring.

Experimental: TorchScript is deprecated, and this is what follows it. The runtime does not read these files yet.

Shapes: B rows, N samples of one chunk.
"""

import io
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, List, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from wenet_fusion_runtime.files import replacing
from wenet_fusion_runtime.model.acoustic_model import AcousticModel, StepScores
from wenet_fusion_runtime.model.metadata import BATCH, ONNX
from wenet_fusion_runtime.model.model_file import META

from wenet_fusion.export.acceptance import ExportOptions, accept, refuse_operators
from wenet_fusion.export.speech import Speech
from wenet_fusion.export.verification import verify
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.operators import COSTLY_ACTIVATIONS, NORM_OPERATORS, matching
from wenet_fusion.model.streaming import Scores, StreamingModel
from wenet_fusion.trained_model import FileForm, TrainedModel, acoustic_model, fused_model, meta_record

KIND = "wenet_fusion.program"


class ChunkStep(nn.Module):
    """`StreamingModel.step` under one chunking."""

    def __init__(self, model: StreamingModel, chunking: Chunking):
        super().__init__()
        self.model, self.chunking = model, chunking

    def forward(self, samples: Tensor, lengths: Tensor, state: List[Tensor]) -> Tuple[Scores, List[Tensor]]:
        return self.model.step(samples, lengths, *self.chunking, state)


def export_program(trained: TrainedModel, path: Path, speech: Sequence[Speech] = ()) -> dict[str, Any]:
    """Exports the step of the default chunking: one whole chunk per call, for any number of rows. Experimental.

    A stream's last block is padded to a whole chunk; `lengths` says how much of it is valid. The state starts as zeros;
    meta.json describes it. Results are those of `StreamingModel.step`. The program is saved, loaded again and compared
    with the model in memory on generated audio and on `speech`; only then is it kept.

    Returns:
        The contents of meta.json, which `torch.export.load` returns in its `extra_files`.

    Raises:
        ValueError: if a norm op is left, or the program does not reproduce the model; nothing is kept then.
    """
    model, chunking = fused_model(trained), trained.config.training.chunking.served()[-1]
    model.decoder = model.reverse_decoder = None  # weights that no step uses
    step = ChunkStep(model, chunking).eval()
    record = {
        **meta_record(trained, {}, FileForm(KIND)),
        "experimental": True,
        "chunkings": [chunking._asdict()],
        "decoder": False,
        "reverse_decoder": False,
        "state": describe_state(step),
    }
    program, reference = trace(step), acoustic_model(trained)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        _save(program, record, part)
        written = load_program(part)
        counts = operators(written.program)
        refuse_operators(counts, NORM_OPERATORS + COSTLY_ACTIVATIONS, trained, path)
        accepted = accept(path, reference, program_model(written, reference), speech, ExportOptions())
        norms = sum(matching(counts, NORM_OPERATORS).values())
        record["verification"] = {**accepted.summary(), "norm_operators": norms}
        _save(program, record, part)
        written = load_program(part)
        if written.record != record:
            raise ValueError(f"{path} is not kept: its {META} is not what was written; check the disk and export again")
        verify(reference, program_model(written, reference), ()).raise_if_different(path)
    return record


def describe_state(step: ChunkStep) -> list[list[Any]]:
    """Name, dtype and shape of each tensor of a stream's state."""
    state = step.model.init_state(1, *step.chunking)
    return [[f"state_{i}", str(x.dtype).removeprefix("torch."), [BATCH, *x.shape[1:]]] for i, x in enumerate(state)]


def trace(step: ChunkStep) -> ExportedProgram:
    """The program of one chunk; nothing but the number of rows varies."""
    batch, samples = 2, step.chunking.size * step.model.frame_samples
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


class ProgramBackend:
    """A program behind the runtime's interface, so that it is compared as any other file: one chunk per call."""

    def __init__(self, loaded: LoadedProgram):
        self.run, self.state, self.frame_samples = (
            loaded.program.module(),
            loaded.record["state"],
            loaded.record["frame_samples"],
        )

    def init_state(self, batch: int, chunk: int, left: int) -> List[Tensor]:
        return [torch.zeros([batch, *shape[1:]], dtype=getattr(torch, dtype)) for _, dtype, shape in self.state]

    @torch.no_grad()
    def step(
        self, samples: np.ndarray, lengths: np.ndarray, chunk: int, left: int, state: List[Tensor]
    ) -> tuple[StepScores, List[Tensor]]:
        frames = samples.shape[1] // self.frame_samples
        whole = np.pad(samples, ((0, 0), (0, chunk * self.frame_samples - samples.shape[1])))
        scores, state = self.run(torch.from_numpy(whole), torch.from_numpy(lengths), state)
        encoder_out, lengths, *rest = (field.numpy() for field in scores)
        return StepScores(encoder_out[:, :frames], lengths, *(field[:, :frames] for field in rest)), state

    def rescore(self, encoder_out: np.ndarray, hyps: np.ndarray, hyp_lengths: np.ndarray) -> np.ndarray:
        return np.zeros((len(hyps), 2), np.float32)

    def concat_states(self, states: Sequence[List[Tensor]]) -> List[Tensor]:
        return [torch.cat(tensors) for tensors in zip(*states)]

    def split_state(self, state: List[Tensor]) -> list[List[Tensor]]:
        return [[x[row : row + 1].clone() for x in state] for row in range(len(state[0]))]


def program_model(loaded: LoadedProgram, reference: AcousticModel) -> AcousticModel:
    """A program as the searches see it; `reference` is the model that it came from."""
    default = (reference.meta.default_chunk, reference.meta.default_left)
    # It takes one chunk per call, as graphs do.
    return AcousticModel(
        ProgramBackend(loaded), replace(reference.meta, kind=ONNX, chunkings=(default,), decoder=False)
    )


def operators(program: ExportedProgram) -> Counter[str]:
    """How often each operator stands in a program."""
    return Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")


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
