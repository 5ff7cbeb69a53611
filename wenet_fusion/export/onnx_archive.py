"""Writes the ONNX archive that our runtime runs without torch, verified before it is kept. Knows no other runtime.

Shapes: B rows, N samples, T encoder frames, C cached frames, S = C + T keys, U tokens.
"""

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wenet_fusion.chunking import Chunking
from wenet_fusion.deployment import FileForm, acoustic_model, fused_model, meta_record
from wenet_fusion.export.onnx_graph import operators, quantise_dynamic, versions, write_onnx
from wenet_fusion.export.speech import Speech, measure_errors
from wenet_fusion.export.verification import tolerance, verify
from wenet_fusion.export.word_times import measure_word_times
from wenet_fusion.files import replacing
from wenet_fusion.models.deployed import DeployedModel, StepOutput
from wenet_fusion.models.encoder import Encoder, EncoderOutput, EncoderState
from wenet_fusion.models.exported import flatten_state, unflatten_state
from wenet_fusion.models.operators import matching
from wenet_fusion.recipe import TrainedModel
from wenet_fusion_runtime.meta import BATCH, CACHE, ONNX, parse_meta
from wenet_fusion_runtime.model_file import META, load_model
from wenet_fusion_runtime.onnx_backend import RESCORE, STEP

Precision = Literal["float32", "int8"]
RECORDED = {"float32": "float32", "int8": "int8-dynamic"}  # onnxruntime scales activations block by block
MAX_VERIFIED = 8  # utterances that are compared frame by frame
# Parts of operator names that a fused encoder must not contain. The exporter spells Swish and GLU with Sigmoid.
NORMS_AND_COSTLY_ACTIVATIONS = ("Normalization", "ReduceMean", "Sigmoid", "Tanh", "Erf", "Elu", "Softplus")


def export_onnx_archive(
    trained: TrainedModel, path: Path, precision: Precision = "float32", speech: Sequence[Speech] = (),
    max_wer_increase: float = 0.005,
) -> dict[str, Any]:
    """Exports a trained model as one zip of two graphs and meta.json.

    The file is written beside `path`, loaded again as the runtime will load it, and compared with the model in memory
    on generated audio and on `speech`; only then does it take its place.

    Args:
        trained: the checkpoint.
        path: where the file goes.
        precision: of the linear layers. "int8" scales activations by what else is in the block and the batch, so its
            scores differ from the checkpoint's and from one chunk size to the next. How far, meta.json says: the tokens
            that differ and, of `speech`, the error rates.
        speech: utterances to verify on beside the generated audio, and to measure the error rates of int8 on. Those
            whose words are dated show how far emitted words lie from spoken ones.
        max_wer_increase: what int8 may cost, as a fraction of the words of `speech`.

    Returns:
        The contents of the file's meta.json.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        ValueError: the precision is unknown, a norm op is left, the file does not reproduce the model, or int8 costs
            too much; none is kept.
    """
    if precision not in RECORDED:
        raise ValueError(f"{path} is not written: precision {precision}, an ONNX archive has {' or '.join(RECORDED)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, tempfile.TemporaryDirectory() as folder:
        model = one_chunk_model(trained)
        form = FileForm(ONNX, RECORDED[precision], "onnxruntime")
        record = {**meta_record(trained, {}, form), "state": describe_state(model)}
        record["versions"] |= versions()
        graphs = write_graphs(model, Path(folder), precision)
        counts = operators(graphs[0])
        left = matching(counts, NORMS_AND_COSTLY_ACTIVATIONS)
        if left and trained.config.model.encoder.fusible:
            raise ValueError(
                f"{path} is not written: the exported step still runs {left}; "
                "every norm must be in a LinearNorm or ConvNorm"
            )
        _pack(graphs, record, part)
        reference, written, limit = acoustic_model(trained), load_model(part), tolerance(form.precision)
        checked = verify(reference, written, [utterance.samples for utterance in speech[:MAX_VERIFIED]], limit)
        checked.raise_if_different(path)
        norms = sum(matching(counts, ("Normalization",)).values())
        record["verification"] = {
            **checked.summary(), "operators": dict(sorted(counts.items())), "norm_operators": norms,
        }
        if precision == "int8" and speech:
            errors = measure_errors(reference, written, speech)
            errors.raise_above(max_wer_increase, path)
            record["verification"]["errors"] = errors.summary()
        if any(utterance.spoken for utterance in speech):
            measured = measure_word_times(written, speech)
            record["word_times"] = measured and measured.word_times._asdict()
            record["verification"]["word_times"] = measured and measured.summary()
        _pack(graphs, record, part)
        written = load_model(part)
        if written.meta != parse_meta(record, str(path)):
            raise ValueError(f"{path} is not kept: its {META} is not what was written; check the disk and export again")
        verify(reference, written, (), limit).raise_if_different(path)
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
    batch, frames, cached = 2, 3, 5
    described = describe_state(model)
    names = [name for name, _, _ in described]
    inputs = {
        "samples": torch.zeros(batch, frames * model.frame_samples),
        "lengths": torch.full([batch], frames * model.frame_samples),
        **dict(zip(names, flatten_state(model.init_state(batch, cached, 1)))),
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
    write_onnx(_Step(model), inputs, outputs, axes, path, {})
    return path


def _write_rescore(model: DeployedModel, path: Path) -> Path:
    frames, hypotheses, tokens = 3, 4, 5
    inputs = {
        "encoder_out": torch.zeros(1, frames, model.encoder.dim),
        "hyps": torch.zeros(hypotheses, tokens, dtype=torch.int64),
        "hyp_lengths": torch.full([hypotheses], tokens),
    }
    axes = {
        "encoder_out": {1: "frames"}, "hyps": {0: "hypotheses", 1: "tokens"},
        "hyp_lengths": {0: "hypotheses"}, "scores": {0: "hypotheses"},
    }
    write_onnx(_Rescore(model), inputs, ["scores"], axes, path, {})
    return path


def describe_state(model: DeployedModel) -> list[list[Any]]:
    """Name, dtype and shape of each tensor of a stream's state; what grows with the left context is the cache."""
    shorter, longer = (flatten_state(model.init_state(1, 1, left)) for left in (1, 2))
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
