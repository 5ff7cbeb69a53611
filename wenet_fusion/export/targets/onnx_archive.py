"""The ONNX archive that our runtime runs on onnxruntime, without torch.

Shapes: B rows, T feature frames in inputs and encoder frames after subsampling, F mel bins, C cached frames,
S = C + T keys.
"""

import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.backends import ONNXRUNTIME
from wenet_fusion_runtime.model.metadata import BATCH, CACHE, ONNX, VOCABULARY_SIZE
from wenet_fusion_runtime.model.model_file import META, load_model
from wenet_fusion_runtime.model.native_table import NATIVE
from wenet_fusion_runtime.model.onnx_backend import RESCORE, STEP

from wenet_fusion.export.kernels.calibration import calibration
from wenet_fusion.export.kernels.native_places import native_table
from wenet_fusion.export.kernels.onnx_int8 import DOMAIN, make_onnx_static
from wenet_fusion.export.kernels.static_int8 import input_ranges
from wenet_fusion.export.speech import Speech
from wenet_fusion.export.target import Findings, Target
from wenet_fusion.export.targets.onnx_graph import (
    ONNX_COSTLY_ACTIVATIONS,
    ONNX_NORMS,
    operators,
    quantise_dynamic,
    versions,
    write_onnx,
)
from wenet_fusion.export.tracing import describe_state
from wenet_fusion.export.verification import Pair
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.encoder import Encoder, EncoderOutput
from wenet_fusion.model.encoder_state import EncoderState
from wenet_fusion.model.streaming import StepOutput, StreamingModel
from wenet_fusion.trained_model import FileForm, TrainedModel, fused_model, look_up_biases, meta_record


class OnnxArchive(Target):
    """A zip file with step.onnx, rescore.onnx and meta.json, for our runtime on onnxruntime. An int8 archive may also
    hold native.json, for the runtime's native step.

    >>> OnnxArchive.name, OnnxArchive.precisions
    ('onnx', ('float32', 'int8', 'int8-dynamic'))
    """

    name, purpose = "onnx", "for our runtime without torch"
    precisions = ("float32", "int8", "int8-dynamic")
    norms, costly_activations = ONNX_NORMS, ONNX_COSTLY_ACTIVATIONS
    for_our_runtime = True

    def build(self, speech: Sequence[np.ndarray]) -> None:
        """Build the graphs; see `one_chunk_model` and `build_members`."""
        model = one_chunk_model(self.trained, self.precision, speech)
        self.members, self.state = build_members(model, self.precision), describe_state(model)

    def write(self, path: Path, precision: str, found: Findings | None) -> None:
        """Write the archive."""
        pack(self.members, self.metadata(found), path)

    def load(self, path: Path, precision: str, speech: Sequence[Speech]) -> Pair:
        """Load the archive with our runtime."""
        return Pair(self.reference(), load_model(path, backend=ONNXRUNTIME))

    def operators(self, path: Path, precision: str, exported: AcousticModel) -> Counter[str]:
        """Count the operators of step.onnx."""
        return operators(self.members[STEP])

    def metadata(self, found: Findings | None) -> dict[str, Any]:
        """Return the contents of meta.json."""
        delay = found.delay.emission_delay if found and found.delay else None
        form = FileForm(ONNX, self.precision, "onnxruntime")
        record = meta_record(self.trained, found.summary() if found else {}, form, delay)
        return {**record, "state": self.state, "versions": record["versions"] | versions()}


def one_chunk_model(
    trained: TrainedModel, precision: str = "float32", speech: Sequence[np.ndarray] = ()
) -> StreamingModel:
    """Return a fused copy whose step takes one chunk of any size.

    Args:
        trained: the checkpoint.
        precision: "int8" makes the model compute with constant scales.
        speech: utterances (n,) at the model's rate, to calibrate "int8".

    Raises:
        ValueError: see `calibration`; or "int8" does not support an option of the model.
    """
    model = fused_model(trained)
    if precision == "int8":
        if not takes_int8(trained):
            encoder = trained.config.model.encoder
            raise ValueError(
                "precision int8 of an ONNX archive is for models with ReLU and position biases; take int8-dynamic or "
                f"float32 (found encoder norm: {encoder.norm}, activation: {encoder.activation}, conv_gate: "
                f"{encoder.conv_gate}, positions: {encoder.positions})"
            )
        run = calibration(speech, trained.config.training.chunking.served())
        make_onnx_static(model, input_ranges(model, lambda: run(model)))
    model.add_module("encoder", OneChunkEncoder(model.encoder))
    return model


def takes_int8(trained: TrainedModel) -> bool:
    """Return whether int8 with constant scales supports all options of the model."""
    encoder = trained.config.model.encoder
    return encoder.fusible and encoder.positions == "bias"


def build_members(model: StreamingModel, precision: str) -> dict[str, bytes]:
    """Return all members of an archive except meta.json: graphs, and native.json if the native step can run the model.

    Raises:
        ImportError: see `build_graphs`.
    """
    members = build_graphs(model, precision)
    table = native_table(model, _inner(model), members[STEP]) if precision == "int8" else None
    return members if table is None else members | {NATIVE: table.to_json().encode()}


def _inner(model: StreamingModel) -> Encoder:
    """Return the encoder that `one_chunk_model` has wrapped."""
    wrapper: Any = model.encoder
    return wrapper.encoder


def build_graphs(model: StreamingModel, precision: str) -> dict[str, bytes]:
    """Return the contents of step.onnx, and of rescore.onnx if there is a decoder.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
    """
    domains = [DOMAIN] if precision == "int8" else []
    with tempfile.TemporaryDirectory() as folder:
        graphs = [_write_step(model, Path(folder) / STEP, domains)]
        if model.decoder is not None:
            graphs.append(_write_rescore(model, Path(folder) / RESCORE, domains))
        if precision == "int8-dynamic":
            for graph in graphs:
                exact = graph.rename(graph.with_suffix(".float32"))
                quantise_dynamic(exact, graph)
        return {graph.name: graph.read_bytes() for graph in graphs}


def _write_step(model: StreamingModel, path: Path, domains: Sequence[str]) -> Path:
    batch, frames, cached = 2, 3, 5
    described = describe_state(model)
    names = [name for name, _, _ in described]
    inputs = {
        "samples": torch.zeros(batch, frames * model.frame_samples),
        "lengths": torch.full([batch], frames * model.frame_samples),
        **dict(zip(names, model.init_state(batch, cached, 1))),
    }
    # An input and an output must not share a name, so the output `lengths` is called `frames`.
    scores = ["frames" if field == "lengths" else field for field in StepOutput._fields]
    outputs = [*scores, *(f"next_{name}" for name in names)]
    axes = {name: {0: BATCH} for name in [*inputs, *outputs]}
    axes["samples"][1] = "samples"
    for name in ("encoder_out", "top_log_probs", "top_ids", "blank_log_probs"):
        axes[name][1] = "frames"
    for name, _, shape in described:
        if CACHE in shape:
            axes[name][shape.index(CACHE)] = axes[f"next_{name}"][shape.index(CACHE)] = CACHE
    write_onnx(_Step(model), inputs, outputs, axes, path, {VOCABULARY_SIZE: str(model.vocabulary_size)}, domains)
    return path


def _write_rescore(model: StreamingModel, path: Path, domains: Sequence[str]) -> Path:
    frames, hypotheses, tokens = 3, 4, 5
    inputs = {
        "encoder_out": torch.zeros(1, frames, model.encoder.dim),
        "hyps": torch.zeros(hypotheses, tokens, dtype=torch.int64),
        "hyp_lengths": torch.full([hypotheses], tokens),
    }
    axes = {
        "encoder_out": {1: "frames"},
        "hyps": {0: "hypotheses", 1: "tokens"},
        "hyp_lengths": {0: "hypotheses"},
        "scores": {0: "hypotheses"},
    }
    write_onnx(_Rescore(model), inputs, ["scores"], axes, path, {}, domains)
    return path


class OneChunkEncoder(nn.Module):
    """An encoder that takes one chunk of any size per call. All cached and new frames of the stream are visible.

    One graph serves all chunk sizes, so position biases are looked up, not precomputed.

    Args:
        encoder: a fused encoder.

    >>> hasattr(OneChunkEncoder, "init_state")  # stands in for `Encoder`
    True
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder, self.dim = encoder, encoder.dim
        look_up_biases(encoder)

    def init_state(self, batch: int, cache_frames: int) -> EncoderState:
        """See `Encoder.init_state`."""
        return self.encoder.init_state(batch, cache_frames)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor, chunking: Chunking, state: EncoderState) -> EncoderOutput:
        """Run one chunk of features; `chunking` is ignored."""
        frames, cached = x_BTF.size(1) // self.encoder.factor, self.encoder.cached_frames(state)
        key_BS = state.position.unsqueeze(1) + torch.arange(-cached, frames)
        visible_BS = (key_BS >= 0) & (key_BS < (state.position + lengths_B).unsqueeze(1))
        visible_BTS = visible_BS.unsqueeze(1).expand(-1, frames, -1)
        return self.encoder.forward_masked(x_BTF, lengths_B, visible_BTS, key_BS, state)


class _Step(nn.Module):
    def __init__(self, model: StreamingModel):
        super().__init__()
        self.model = model

    def forward(self, samples: Tensor, lengths: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, new = self.model.step(samples, lengths, 0, 0, list(state))
        return (*scores, *new)


class _Rescore(nn.Module):
    def __init__(self, model: StreamingModel):
        super().__init__()
        self.model = model

    def forward(self, encoder_out: Tensor, hyps: Tensor, hyp_lengths: Tensor) -> Tensor:
        return self.model.rescore(encoder_out, hyps, hyp_lengths)


def pack(members: Mapping[str, bytes], record: dict[str, Any], path: Path) -> None:
    """Write an archive of graphs and other members; `record` becomes meta.json."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(META, json.dumps(record, ensure_ascii=False))
        for name, content in members.items():
            archive.writestr(name, content)
