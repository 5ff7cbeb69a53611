"""The step of one chunk size as a torch.export program (.pt2). Experimental: torch.export will replace TorchScript.

The program has neither search nor rescoring, and our runtime does not read it yet.

Shapes: B rows, N samples of one chunk.
"""

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, List, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from wenet_fusion_runtime.model.acoustic_model import AcousticModel, StepScores
from wenet_fusion_runtime.model.metadata import BATCH, ONNX
from wenet_fusion_runtime.model.model_file import META

from wenet_fusion.export.speech import Speech
from wenet_fusion.export.target import Findings, Target
from wenet_fusion.export.tracing import describe_state, quiet
from wenet_fusion.export.verification import Pair
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.operators import COSTLY_ACTIVATIONS, NORM_OPERATORS
from wenet_fusion.model.streaming import Scores, StreamingModel
from wenet_fusion.trained_model import FileForm, fused_model, meta_record

KIND = "wenet_fusion.program"


class TorchProgram(Target):
    """The step of the default chunking as a program: one whole chunk per call, for any number of rows.

    Pad a stream's last block to a whole chunk, and give its number of valid samples in `lengths`. The state starts as
    zeros; meta.json, which `torch.export.load` returns in its `extra_files`, describes the state's tensors.

    >>> TorchProgram.name, TorchProgram.precisions
    ('pt2', ('float32',))
    """

    name, purpose = "pt2", "for torch.export (experimental)"
    norms, costly_activations = NORM_OPERATORS, COSTLY_ACTIVATIONS

    def build(self, speech: Sequence[np.ndarray]) -> None:
        """Trace the fused step."""
        model = fused_model(self.trained)
        model.decoder = model.reverse_decoder = None  # a step does not use their weights
        step = ChunkStep(model, self.chunking).eval()
        self.state, self.program = describe_state(step.model, step.chunking), trace(step)

    def write(self, path: Path, precision: str, found: Findings | None) -> None:
        """Write the program.

        The file is put together in memory, because torch's own writer ends the process when a disk is full.
        """
        content = io.BytesIO()
        with quiet():
            meta = json.dumps(self.metadata(found), ensure_ascii=False)
            torch.export.save(self.program, content, extra_files={META: meta})
        path.write_bytes(content.getbuffer())

    def load(self, path: Path, precision: str, speech: Sequence[Speech]) -> Pair:
        """Load the program, with our runtime's interface."""
        self.loaded, reference = load_program(path), self.reference()
        return Pair(reference, program_model(self.loaded, reference))

    def operators(self, path: Path, precision: str, exported: AcousticModel) -> Counter[str]:
        """Count the operators of the program."""
        graph = self.loaded.program.graph
        return Counter(str(node.target) for node in graph.nodes if node.op == "call_function")

    def metadata(self, found: Findings | None) -> dict[str, Any]:
        """Return the contents of meta.json."""
        return {
            **meta_record(self.trained, found.summary() if found else {}, FileForm(KIND)),
            "experimental": True,
            "chunkings": [self.chunking._asdict()],
            "decoder": False,
            "reverse_decoder": False,
            "state": self.state,
        }

    def reads_back(self, exported: AcousticModel, found: Findings) -> bool:
        """Return whether the loaded program has the metadata that was written."""
        return self.loaded.record == self.metadata(found)

    def remarks(self) -> list[str]:
        """Return a remark that says how to read the file."""
        return ["experimental: torch.export.load reads it"]


class ChunkStep(nn.Module):
    """`StreamingModel.step` under one chunking.

    Args:
        model: a fused model.
        chunking: chunk size and left context.

    >>> import inspect
    >>> [name for name in inspect.signature(ChunkStep.forward).parameters][1:]
    ['samples', 'lengths', 'state']
    """

    def __init__(self, model: StreamingModel, chunking: Chunking):
        super().__init__()
        self.model, self.chunking = model, chunking

    def forward(self, samples: Tensor, lengths: Tensor, state: List[Tensor]) -> Tuple[Scores, List[Tensor]]:
        """Step B rows by one chunk (B, N)."""
        return self.model.step(samples, lengths, *self.chunking, state)


def trace(step: ChunkStep) -> ExportedProgram:
    """Return the program of one chunk; only the number of rows varies."""
    batch, samples = 2, step.chunking.size * step.model.frame_samples
    state, rows = example_state(step, batch), {0: Dim(BATCH)}
    example = (torch.zeros(batch, samples), torch.full([batch], samples), state)
    with quiet(), torch.no_grad():
        return torch.export.export(step, example, dynamic_shapes=(rows, rows, [rows] * len(state)))


def example_state(step: ChunkStep, batch: int) -> List[Tensor]:
    """Return a fresh state whose tensors share no memory: the exporter would treat shared tensors as one input."""
    return [x.clone() for x in step.model.init_state(batch, *step.chunking)]


class LoadedProgram(NamedTuple):
    """A program and the contents of its meta.json."""

    program: ExportedProgram
    record: dict[str, Any]


def load_program(path: Path) -> LoadedProgram:
    """Read a file that `TorchProgram` wrote."""
    files = {META: ""}
    with quiet(), open(path, "rb") as file:
        program = torch.export.load(file, extra_files=files)
    return LoadedProgram(program, json.loads(files[META]))


class ProgramBackend:
    """A runtime `Backend` that runs a program, one chunk per call.

    Args:
        loaded: the program.

    >>> [name for name in ("init_state", "step", "rescore") if hasattr(ProgramBackend, name)]  # a `Backend`
    ['init_state', 'step', 'rescore']
    """

    def __init__(self, loaded: LoadedProgram):
        self.run = loaded.program.module()
        self.state, self.frame_samples = loaded.record["state"], loaded.record["frame_samples"]

    def init_state(self, batch: int, chunk: int, left: int) -> List[Tensor]:
        """Return the zeros that meta.json describes."""
        return [torch.zeros([batch, *shape[1:]], dtype=getattr(torch, dtype)) for _, dtype, shape in self.state]

    @torch.no_grad()
    def step(
        self, samples: np.ndarray, lengths: np.ndarray, chunk: int, left: int, state: List[Tensor]
    ) -> tuple[StepScores, List[Tensor]]:
        """Run one chunk, padded if it is short; see `Backend.step`."""
        frames = samples.shape[1] // self.frame_samples
        whole = np.pad(samples, ((0, 0), (0, chunk * self.frame_samples - samples.shape[1])))
        scores, state = self.run(torch.from_numpy(whole), torch.from_numpy(lengths), state)
        encoder_out, lengths, *rest = (field.numpy() for field in scores)
        return StepScores(encoder_out[:, :frames], lengths, *(field[:, :frames] for field in rest)), state

    def rescore(self, encoder_out: np.ndarray, hyps: np.ndarray, hyp_lengths: np.ndarray) -> np.ndarray:
        """Return zeros: the program has no decoder."""
        return np.zeros((len(hyps), 2), np.float32)

    def concat_states(self, states: Sequence[List[Tensor]]) -> List[Tensor]:
        """Join the rows of states."""
        return [torch.cat(tensors) for tensors in zip(*states)]

    def split_state(self, state: List[Tensor]) -> list[List[Tensor]]:
        """Return one state per row."""
        return [[x[row : row + 1].clone() for x in state] for row in range(len(state[0]))]


def program_model(loaded: LoadedProgram, reference: AcousticModel) -> AcousticModel:
    """Return a program with the runtime's interface; `reference` is the model that it came from."""
    default = (reference.meta.default_chunk, reference.meta.default_left)
    # The kind is ONNX because, like an ONNX graph, a program takes one chunk per call.
    meta = replace(reference.meta, kind=ONNX, chunkings=(default,), decoder=False)
    return AcousticModel(ProgramBackend(loaded), meta)
