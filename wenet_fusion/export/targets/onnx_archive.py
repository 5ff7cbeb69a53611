"""Writes the ONNX archive that our runtime runs without torch, verified before it is kept. Knows no other runtime.

Shapes: B rows, N samples, T encoder frames, C cached frames, S = C + T keys, U tokens.
"""

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from wenet_fusion_runtime.files import replacing
from wenet_fusion_runtime.model.metadata import BATCH, CACHE, ONNX, parse_meta
from wenet_fusion_runtime.model.model_file import META, load_model
from wenet_fusion_runtime.model.onnx_backend import RESCORE, STEP

from wenet_fusion.export.acceptance import ExportOptions, accept, refuse_operators
from wenet_fusion.export.emission_delay import measure_emission_delay
from wenet_fusion.export.kernels.calibration import calibration
from wenet_fusion.export.kernels.onnx_int8 import DOMAIN, make_onnx_static
from wenet_fusion.export.kernels.static_int8 import input_ranges
from wenet_fusion.export.speech import Speech, halves
from wenet_fusion.export.targets.onnx_graph import (
    NORMS_AND_COSTLY_ACTIVATIONS,
    operators,
    quantise_dynamic,
    versions,
    write_onnx,
)
from wenet_fusion.export.verification import tolerance, verify
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.encoder import Encoder, EncoderOutput
from wenet_fusion.model.encoder_state import EncoderState
from wenet_fusion.model.operators import matching
from wenet_fusion.model.streaming import StepOutput, StreamingModel
from wenet_fusion.trained_model import FileForm, TrainedModel, acoustic_model, fused_model, meta_record

Precision = Literal["float32", "int8", "int8-dynamic"]


def export_onnx_archive(
    trained: TrainedModel, path: Path, speech: Sequence[Speech] = (), options: ExportOptions = ExportOptions()
) -> dict[str, Any]:
    """Exports a trained model as one zip of two graphs and meta.json.

    The file is written beside `path`, loaded again as the runtime will load it, and compared with the model in memory
    on generated audio and on `speech`; only then does it take its place.

    Args:
        trained: the checkpoint.
        path: where the file goes.
        speech: utterances to verify on beside the generated audio; "int8" is calibrated on every other one and judged
            by the rest, "int8-dynamic" by all. Those whose words are dated show how far emitted words lie from spoken ones.
        options: precision of the linear layers, and what it may cost. "int8" scales activations by constants,
            "int8-dynamic" by what else is in the block and the batch, so its scores differ from one chunk size to the
            next. How far either is from the checkpoint, meta.json says: the tokens that differ and, of `speech`, the
            error rates.

    Returns:
        The contents of the file's meta.json.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        ValueError: the precision is unknown, a norm op is left, the file does not reproduce the model, or int8 costs
            too much; none is kept.
    """
    if options.precision not in get_args(Precision):
        raise ValueError(
            f"{path} is not written: precision {options.precision}, an ONNX archive has {', '.join(get_args(Precision))}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, tempfile.TemporaryDirectory() as folder:
        calibration_set, _ = halves(speech, options.precision)
        model = one_chunk_model(trained, options.precision, [utterance.samples for utterance in calibration_set])
        form = FileForm(ONNX, options.precision, "onnxruntime")
        record = {**meta_record(trained, {}, form), "state": describe_state(model)}
        record["versions"] |= versions()
        graphs = write_graphs(model, Path(folder), options.precision)
        counts = operators(graphs[0])
        refuse_operators(counts, NORMS_AND_COSTLY_ACTIVATIONS, trained, path)
        pack(graphs, record, part)
        reference, written = acoustic_model(trained), load_model(part)
        accepted = accept(path, reference, written, speech, options)
        norms = sum(matching(counts, ("Normalization",)).values())
        record["verification"] = {
            **accepted.summary(),
            "operators": dict(sorted(counts.items())),
            "norm_operators": norms,
        }
        if any(utterance.spoken for utterance in speech):
            measured = measure_emission_delay(written, speech)
            record["word_times"] = measured and measured.emission_delay._asdict()
            record["verification"]["word_times"] = measured and measured.summary()
        pack(graphs, record, part)
        written = load_model(part)
        if written.meta != parse_meta(record, str(path)):
            raise ValueError(f"{path} is not kept: its {META} is not what was written; check the disk and export again")
        verify(reference, written, (), tolerance(options.precision)).raise_if_different(path)
    return record


def one_chunk_model(
    trained: TrainedModel, precision: str = "float32", speech: Sequence[np.ndarray] = ()
) -> StreamingModel:
    """A fused copy whose step takes one chunk and ignores what it is told about chunks; `speech` calibrates int8.

    Raises:
        ValueError: see `calibration`; or int8 is asked of a model that is no FusionFormer.
    """
    model = fused_model(trained)
    if precision == "int8":
        if not takes_int8(trained):
            raise ValueError(
                "precision int8 of an ONNX archive is for models with ReLU and position biases; take int8-dynamic"
            )
        run = calibration(speech, trained.config.training.chunking.served())
        make_onnx_static(model, input_ranges(model, lambda: run(model)))
    model.encoder = OneChunkEncoder(model.encoder)
    return model


def takes_int8(trained: TrainedModel) -> bool:
    """Whether its archives can have int8 with constant scales."""
    encoder = trained.config.model.encoder
    return encoder.fusible and encoder.positions == "bias"


def write_graphs(model: StreamingModel, folder: Path, precision: str) -> list[Path]:
    """Writes step.onnx, and rescore.onnx if there is a decoder."""
    domains = [DOMAIN] if precision == "int8" else []
    graphs = [_write_step(model, folder / STEP, domains)]
    if model.decoder is not None:
        graphs.append(_write_rescore(model, folder / RESCORE, domains))
    if precision == "int8-dynamic":
        for graph in graphs:
            exact = graph.rename(graph.with_suffix(".float32"))
            quantise_dynamic(exact, graph)
    return graphs


def _write_step(model: StreamingModel, path: Path, domains: Sequence[str]) -> Path:
    batch, frames, cached = 2, 3, 5
    described = describe_state(model)
    names = [name for name, _, _ in described]
    inputs = {
        "samples": torch.zeros(batch, frames * model.frame_samples),
        "lengths": torch.full([batch], frames * model.frame_samples),
        **dict(zip(names, model.init_state(batch, cached, 1))),
    }
    # No input and output of a graph may share a name, so the lengths that come out are called frames.
    scores = ["frames" if field == "lengths" else field for field in StepOutput._fields]
    outputs = [*scores, *(f"next_{name}" for name in names)]
    axes = {name: {0: BATCH} for name in [*inputs, *outputs]}
    axes["samples"][1] = "samples"
    for name in ("encoder_out", "top_log_probs", "top_ids", "blank_log_probs"):
        axes[name][1] = "frames"
    for name, _, shape in described:
        if CACHE in shape:
            axes[name][shape.index(CACHE)] = axes[f"next_{name}"][shape.index(CACHE)] = CACHE
    write_onnx(_Step(model), inputs, outputs, axes, path, {}, domains)
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


def describe_state(model: StreamingModel) -> list[list[Any]]:
    """Name, dtype and shape of each tensor of a stream's state; what grows with the left context is the cache."""
    shorter, longer = (model.init_state(1, 1, left) for left in (1, 2))
    described = []
    for i, (short, long) in enumerate(zip(shorter, longer)):
        sizes = [size if size == other else CACHE for size, other in zip(short.shape[1:], long.shape[1:])]
        described.append([f"state_{i}", str(short.dtype).removeprefix("torch."), [BATCH, *sizes]])
    return described


class OneChunkEncoder(nn.Module):
    """An encoder that takes one chunk per call: all that is cached and all that is new is visible, if it exists.

    It need not be told how long a chunk is, so one graph serves all; for the same reason biases are looked up.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder, self.dim = encoder, encoder.dim
        if encoder.position_bias is not None:
            encoder.position_bias = encoder.position_bias.bias

    def init_state(self, batch: int, cache_frames: int) -> EncoderState:
        return self.encoder.init_state(batch, cache_frames)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor, chunking: Chunking, state: EncoderState) -> EncoderOutput:
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


def pack(graphs: Sequence[Path], record: dict[str, Any], path: Path) -> None:
    """Writes the archive of these graphs, unverified; `record` becomes meta.json."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(META, json.dumps(record, ensure_ascii=False))
        for graph in graphs:
            archive.write(graph, graph.name)
