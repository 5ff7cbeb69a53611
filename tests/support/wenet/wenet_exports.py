"""Write fake models as WeNet's and sherpa-onnx's exporters do: a script, three graphs, or one graph."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import onnx
import torch
import yaml
from support.wenet.fake_wenet import BINS, OLD_TOKENS, TOKENS, FakeWenet
from torch import Tensor, nn


def write_units(folder: Path, tokens: tuple[str, ...] = TOKENS, name: str = "units.txt") -> Path:
    """Write a vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{token} {number}\n" for number, token in enumerate(tokens))
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def write_recipe(folder: Path, **changes: dict) -> Path:
    """Write a train.yaml of the fake models' features; `changes` replace its sections."""
    record = {
        "dataset_conf": {"fbank_conf": {"num_mel_bins": BINS, "frame_shift": 10, "frame_length": 25, "dither": 1.0}},
        "encoder_conf": {"use_dynamic_chunk": True},
        "model_conf": {"ctc_weight": 0.3, "reverse_weight": 0.4},
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(record))), encoding="utf-8")
    return folder / "train.yaml"


def save_script(folder: Path, model: FakeWenet, name: str = "final.zip") -> Path:
    """Write a folder as WeNet's export_jit.py leaves it, with its units.txt and train.yaml."""
    write_units(folder, OLD_TOKENS if model.end > 2 else TOKENS)
    write_recipe(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model.eval()), str(folder / name))
    return folder


class _GraphEncoder(nn.Module):
    """The encoder as export_onnx_cpu.py exports it, with a mask if the left context is limited."""

    def __init__(self, model: FakeWenet, left: int, has_ctc: bool) -> None:
        super().__init__()
        self.model, self.left, self.has_ctc = model, left, has_ctc

    def forward(
        self,
        chunk: Tensor,
        offset: Tensor,
        required_cache_size: Tensor,
        att_cache: Tensor,
        cnn_cache: Tensor,
        att_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        cached = att_cache.size(2)
        frames = (chunk.size(1) - self.model.context - 1) // self.model.subsampling + 1
        positions = torch.arange(cached + frames) + offset - cached
        visible = (
            torch.ones(cached + frames, dtype=torch.bool) if att_mask is None else att_mask[0, 0, : cached + frames]
        )
        out, att_cache, cnn_cache = self.model.run(chunk, positions, visible, att_cache, cnn_cache)
        if self.left >= 0:
            kept = torch.arange(cached + frames)
            att_cache = att_cache[:, :, kept[kept >= cached + frames - required_cache_size]]
        return self.model.ctc_activation(out) if self.has_ctc else out, att_cache, cnn_cache


class _Ctc(nn.Module):
    def __init__(self, model: FakeWenet) -> None:
        super().__init__()
        self.model = model

    def forward(self, hidden: Tensor) -> Tensor:
        return self.model.ctc_activation(hidden)


class _Decoders(nn.Module):
    def __init__(self, model: FakeWenet) -> None:
        super().__init__()
        self.model = model

    def forward(self, hyps: Tensor, hyps_lens: Tensor, encoder_out: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.model.forward_attention_decoder(hyps, hyps_lens, encoder_out, 0.3)
        left = left + 0.0 * hyps_lens.sum()  # the exporter leaves out unused inputs
        return left, right if self.model.bidirectional else torch.zeros(1)


def save_graphs(folder: Path, model: FakeWenet, chunk: int, left: int) -> Path:
    """Write the folder of export_onnx_cpu.py; a negative left context keeps all frames."""
    write_units(folder)
    names = ["chunk", "offset", "required_cache_size", "att_cache", "cnn_cache", *(["att_mask"] if left > 0 else [])]
    _write_encoder(folder / "encoder.onnx", _GraphEncoder(model, left, False), names, chunk, left)
    hidden = torch.zeros(1, 5, model.width)
    _write(folder / "ctc.onnx", _Ctc(model), {"hidden": hidden}, ["probs"], {"hidden": {1: "T"}}, {})
    inputs = {"hyps": torch.full([3, 4], 2), "hyps_lens": torch.tensor([4, 2, 1]), "encoder_out": hidden}
    axes = {"hyps": {0: "N", 1: "L"}, "hyps_lens": {0: "N"}, "encoder_out": {1: "T"}}
    _write(folder / "decoder.onnx", _Decoders(model), inputs, ["score", "r_score"], axes, {})
    return folder


def save_sherpa(folder: Path, model: FakeWenet, chunk: int, left: int) -> Path:
    """Write sherpa-onnx's streaming file, with tokens.txt beside it; return the file."""
    write_units(folder, ("<blk>", *TOKENS[1:]), "tokens.txt")
    names = ["x", "offset", "required_cache_size", "attn_cache", "conv_cache", "attn_mask"]
    path = folder / "model-streaming.onnx"
    _write_encoder(path, _GraphEncoder(model, left, True), names, chunk, left)
    return path


def _write_encoder(path: Path, graph: _GraphEncoder, names: list[str], chunk: int, left: int) -> None:
    model, cached = graph.model, chunk * max(left, 0)
    window = (chunk - 1) * model.subsampling + model.context + 1
    inputs = (
        torch.zeros(1, window, BINS),
        torch.tensor(cached + 3),
        torch.tensor(chunk * left),
        torch.zeros(model.layers, model.heads, max(cached, 1), 2 * (model.width // model.heads)),
        torch.zeros(model.layers, 1, model.width, model.kernel - 1),
        torch.ones(1, 1, cached + chunk, dtype=torch.bool),
    )
    axes = {names[0]: {1: "T"}, names[3]: {2: "C"}, **({names[5]: {2: "K"}} if len(names) == 6 else {})}
    known = {
        "output_size": model.width,
        "num_blocks": model.layers,
        "cnn_module_kernel": model.kernel,
        "head": model.heads,
        "feature_size": BINS,
        "vocab_size": len(TOKENS),
        "subsampling_rate": model.subsampling,
        "subsampling_factor": model.subsampling,
        "right_context": model.context,
        "sos_symbol": model.end,
        "eos_symbol": model.end,
        "is_bidirectional_decoder": int(model.bidirectional),
        "reverse_weight": 0.3 if model.bidirectional else 0.0,
        "chunk_size": chunk,
        "left_chunks": left,
    }
    known |= {"model_type": "wenet_ctc"} if graph.has_ctc else {}
    outputs = ["output", "r_att_cache", "r_cnn_cache"]
    _write(path, graph, dict(zip(names, inputs)), outputs, axes, {key: str(value) for key, value in known.items()})


def _write(
    path: Path, module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], axes: dict, known: dict[str, str]
) -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=axes,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(graph, known)
    path.write_bytes(graph.SerializeToString())
