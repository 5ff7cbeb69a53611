"""Writes the ONNX archive that our runtime runs without torch; verifies what was written, then keeps it. Knows no WeNet.

Shapes: B rows, N samples, T encoder frames, C cached frames, S = C + T keys, U tokens.
"""

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wenet_fusion.chunking import Chunking
from wenet_fusion.deployment import acoustic_model, fused_model, meta_record
from wenet_fusion.export.onnx_graph import quantise_dynamic, versions, write_onnx
from wenet_fusion.export.verification import verify
from wenet_fusion.files import replacing
from wenet_fusion.models.deployed import DeployedModel, StepOutput
from wenet_fusion.models.encoder import Encoder, EncoderOutput, EncoderState
from wenet_fusion.models.exported import flatten_state, unflatten_state
from wenet_fusion.recipe import TrainedModel
from wenet_fusion_runtime.meta import BATCH, CACHE, ONNX, parse_meta
from wenet_fusion_runtime.model_file import META, load_model
from wenet_fusion_runtime.onnx_backend import RESCORE, STEP

Precision = Literal["float32", "int8"]
_BATCH, _FRAMES, _CACHED, _HYPOTHESES, _TOKENS = 2, 3, 5, 4, 7  # of the traced example
RECORDED = {"float32": "float32", "int8": "int8-dynamic"}  # int8 of onnxruntime measures each block as it comes


def export_onnx_archive(
    trained: TrainedModel, path: Path, precision: Precision = "float32", speech: Sequence[np.ndarray] = ()
) -> dict[str, Any]:
    """Exports a trained model as one zip of two graphs and meta.json.

    The file is written beside `path`, loaded again as the runtime will load it, and compared with the model in memory
    on generated audio and on `speech`; only then does it take its place.

    Args:
        trained: the checkpoint.
        path: where the file goes.
        precision: of the linear layers. int8 gives other scores than the checkpoint, other ones with every chunk size and
            beside other streams in a batch: meta.json says by how much the comparison differed, error rates must judge.
        speech: utterances, float32 mono at the model's rate, to verify on beside the generated audio.

    Returns:
        The contents of the file's meta.json.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        ValueError: the precision is unknown, or the float32 file does not reproduce the model; nothing is kept then.
    """
    if precision not in RECORDED:
        raise ValueError(f"{path} is not written: an ONNX archive's precision is {' or '.join(RECORDED)}, not {precision}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, tempfile.TemporaryDirectory() as folder:
        model = one_chunk_model(trained)
        record = {
            **meta_record(trained, {}), "kind": ONNX, "precision": RECORDED[precision], "engine": "onnxruntime",
            "state": describe_state(model),
        }
        record["versions"] |= versions()
        graphs = write_graphs(model, Path(folder), precision)
        _pack(graphs, record, part)
        reference = acoustic_model(trained)
        checked = verify(reference, load_model(part), speech)
        if precision == "float32":
            checked.raise_if_different(path)
        record["verification"] = checked.summary()
        _pack(graphs, record, part)
        written = load_model(part)
        if written.meta != parse_meta(record, str(path)):
            raise ValueError(f"{path} is not kept: its meta.json is not what was written; check the disk and export again")
        if precision == "float32":
            verify(reference, written, ()).raise_if_different(path)
    return record


def one_chunk_model(trained: TrainedModel) -> DeployedModel:
    """A fused copy whose step takes one chunk and ignores what it is told about chunks."""
    model = fused_model(trained)
    model.encoder = OneChunkEncoder(model.encoder)
    return model


def write_graphs(model: DeployedModel, folder: Path, precision: Precision) -> list[Path]:
    """Writes step.onnx, and rescore.onnx if there is a decoder."""
    graphs = [_write_step(model, folder / STEP)]
    if model.decoder is not None:
        graphs.append(_write_rescore(model, folder / RESCORE))
    if precision == "int8":
        for graph in graphs:
            exact = graph.rename(graph.with_suffix(".float32"))
            quantise_dynamic(exact, graph)
    return graphs


def _write_step(model: DeployedModel, path: Path) -> Path:
    described = describe_state(model)
    names = [name for name, _, _ in described]
    inputs = {
        "samples": torch.zeros(_BATCH, _FRAMES * model.frame_samples),
        "lengths": torch.full([_BATCH], _FRAMES * model.frame_samples),
        **dict(zip(names, flatten_state(model.init_state(_BATCH, _CACHED, 1)))),
    }
    # A graph's input and output cannot share a name, so the lengths that come out are `frames`.
    scores = [field if field != "lengths" else "frames" for field in StepOutput._fields]
    outputs = [*scores, *(f"next_{name}" for name in names)]
    axes = {name: {0: BATCH} for name in [*inputs, *outputs]}
    axes["samples"][1] = "samples"
    for name in ("encoder_out", "top_log_probs", "top_ids", "blank_log_probs"):
        axes[name][1] = "frames"
    for name, _, shape in described:
        if CACHE in shape:
            axes[name][shape.index(CACHE)] = axes[f"next_{name}"][shape.index(CACHE)] = CACHE
    write_onnx(_Step(model), inputs, outputs, axes, path, {})
    return path


def _write_rescore(model: DeployedModel, path: Path) -> Path:
    inputs = {
        "encoder_out": torch.zeros(1, _FRAMES, model.encoder.dim),
        "hyps": torch.zeros(_HYPOTHESES, _TOKENS, dtype=torch.int64),
        "hyp_lengths": torch.full([_HYPOTHESES], _TOKENS),
    }
    axes = {
        "encoder_out": {1: "frames"}, "hyps": {0: "hypotheses", 1: "tokens"},
        "hyp_lengths": {0: "hypotheses"}, "scores": {0: "hypotheses"},
    }
    write_onnx(_Rescore(model), inputs, ["scores"], axes, path, {})
    return path


def describe_state(model: DeployedModel) -> list[list[Any]]:
    """Name, dtype and shape of each tensor of a stream's state; an axis that grows with the left context is the cache."""
    shorter, longer = (flatten_state(model.init_state(1, 1, left)) for left in (1, 2))
    described = []
    for i, (short, long) in enumerate(zip(shorter, longer)):
        sizes = [size if size == other else CACHE for size, other in zip(short.shape[1:], long.shape[1:])]
        described.append([f"state_{i}", str(short.dtype).removeprefix("torch."), [BATCH, *sizes]])
    return described


class OneChunkEncoder(nn.Module):
    """An encoder that takes one chunk per call: all that is cached and all that is new is visible, if it exists.

    It need not be told how long a chunk is, so one graph serves all. Biases are looked up, not lying ready for some sizes.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder, self.dim = encoder, encoder.dim
        if encoder.position_bias is not None:
            encoder.position_bias = encoder.position_bias.bias

    def init_state(self, batch: int, cache_frames: int) -> EncoderState:
        return self.encoder.init_state(batch, cache_frames)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor, chunking: Chunking, state: EncoderState) -> EncoderOutput:
        frames, cached = x_BTF.size(1) // self.encoder.factor, state.layers[0].keys_values.size(1)
        key_BS = state.position.unsqueeze(1) + torch.arange(-cached, frames)
        visible_BS = (key_BS >= 0) & (key_BS < (state.position + lengths_B).unsqueeze(1))
        visible_BTS = visible_BS.unsqueeze(1).expand(-1, frames, -1)
        return self.encoder.advance(x_BTF, lengths_B, visible_BTS, key_BS, state)


class _Step(nn.Module):
    def __init__(self, model: DeployedModel):
        super().__init__()
        self.model = model

    def forward(self, samples: Tensor, lengths: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        output, new = self.model.step(samples, lengths, 0, 0, unflatten_state(list(state)))
        return (*output, *flatten_state(new))


class _Rescore(nn.Module):
    def __init__(self, model: DeployedModel):
        super().__init__()
        self.model = model

    def forward(self, encoder_out: Tensor, hyps: Tensor, hyp_lengths: Tensor) -> Tensor:
        return self.model.rescore(encoder_out, hyps, hyp_lengths)


def _pack(graphs: Sequence[Path], record: dict[str, Any], path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(META, json.dumps(record, ensure_ascii=False))
        for graph in graphs:
            archive.write(graph, graph.name)
