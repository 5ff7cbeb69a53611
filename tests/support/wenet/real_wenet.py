"""WeNet itself where it can be imported: its models with random weights, its own exporters and its own decoding.

The `wenet` package is WeNet as Rev.com ships it in rev-reverb 0.1.0.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from conftest import absent
from parts.training.wenet_package import import_wenet
from support.wenet.wenet_recipe import BINS, Recipe
from torch import nn
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM, RESCORING

RATE = 16000


def wenet_module(name: str) -> types.ModuleType:
    """Import a module of WeNet. Without the package skip the test, or fail it if the package is promised."""
    try:
        return import_wenet(name)
    except ImportError as error:
        absent(f"WeNet is missing: {error}", "WENET_FUSION_REQUIRE_WENET")


def write_experiment(folder: Path, recipe: Recipe, speech: np.ndarray, seed: int = 0) -> Path:
    """Write the folder of a training: train.yaml, global_cmvn, units.txt, final.pt.

    The weights are random; the CTC head is scaled so that its scores of `speech` (samples) name many tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = recipe.record(folder)
    (folder / "train.yaml").write_text(yaml.safe_dump(record, allow_unicode=True), encoding="utf-8")
    units = "".join(f"{token} {number}\n" for number, token in enumerate(recipe.tokens()))
    (folder / "units.txt").write_text(units, encoding="utf-8")
    features = wenet_features(speech)
    if recipe.cmvn:
        sums = {
            "mean_stat": features.sum(0).tolist(),
            "var_stat": features.square().sum(0).tolist(),
            "frame_num": len(features),
        }
        (folder / "global_cmvn").write_text(json.dumps(sums), encoding="utf-8")
    torch.manual_seed(seed)
    model = _init_model(record)
    _randomise(model, features)
    torch.save(model.state_dict(), folder / "final.pt")
    return folder


def load_experiment(folder: Path) -> Any:
    """Return WeNet's own model of a folder, for decoding."""
    record = yaml.safe_load((folder / "train.yaml").read_text(encoding="utf-8"))
    model = _init_model(record)
    model.load_state_dict(torch.load(folder / "final.pt"))
    return model.requires_grad_(False)


def export_script(folder: Path) -> None:
    """Run WeNet's export_jit.py: writes final.zip and final_quant.zip."""
    flags = _flags(folder, output_file=folder / "final.zip", output_quant_file=folder / "final_quant.zip")
    _main("bin.export_jit", flags)


def export_graphs(folder: Path, chunk: int, left: int, reverse_weight: float = 0.3) -> Path:
    """Run WeNet's export_onnx_cpu.py; return the folder of the graphs, which has units.txt and train.yaml too."""
    output = folder / f"onnx_{chunk}_{left}"
    flags = _flags(folder, output_dir=output, chunk_size=chunk, num_decoding_left_chunks=left)
    export = torch.onnx.export
    # WeNet's script was written when torch had only the exporter for TorchScript.
    with mock.patch("torch.onnx.export", lambda *args, **kwargs: export(*args, **kwargs, dynamo=False)):
        _main("bin.export_onnx_cpu", [*flags, "--reverse_weight", str(reverse_weight)])
    for name in ("units.txt", "train.yaml"):
        (output / name).write_bytes((folder / name).read_bytes())
    return output


def wenet_features(samples: np.ndarray) -> torch.Tensor:
    """Return the features (T, F) that WeNet's recognize.py computes, by torchaudio, of samples at 16 kHz in [-1, 1]."""
    import torchaudio.compliance.kaldi as kaldi

    waveform = torch.from_numpy(samples)[None] * 32768
    return kaldi.fbank(waveform, num_mel_bins=BINS, dither=0.0, energy_floor=0.0, sample_frequency=RATE)


@torch.no_grad()
def stream_frames(model: Any, features: torch.Tensor, chunk: int, left: int) -> torch.Tensor:
    """Return WeNet's encoder frames (1, M, D) of features (T, F), chunk by chunk; a negative left keeps all frames."""
    return model.encoder.forward_chunk_by_chunk(features[None], chunk, left)[0]


@torch.no_grad()
def graph_frames(model: Any, features: torch.Tensor, chunk: int, left: int) -> torch.Tensor:
    """Return the frames as WeNet computes them with its graphs: positions begin after a cache full of zeros."""
    encoder, embed, cached = model.encoder, model.encoder.embed, chunk * left
    layers, width = len(encoder.encoders), encoder.output_size()
    attention = encoder.encoders[0].self_attn
    att_cache = torch.zeros(layers, attention.h, cached, 2 * attention.d_k)
    cnn_cache = torch.zeros(layers, 1, width, encoder.encoders[0].conv_module.lorder)
    offset, frames = cached, []
    for start in range(0, len(features) - embed.right_context, chunk * embed.subsampling_rate):
        window = features[None, start : start + (chunk - 1) * embed.subsampling_rate + embed.right_context + 1]
        visible = torch.arange(cached + chunk) >= 2 * cached - offset
        found, att_cache, cnn_cache = encoder.forward_chunk(
            window, offset, cached, att_cache, cnn_cache, visible[None, None]
        )
        frames.append(found)
        offset += found.size(1)
    return torch.cat(frames, 1)


@torch.no_grad()
def search(model: Any, frames: torch.Tensor, beam: int, ctc_weight: float, reverse_weight: float) -> dict[str, Any]:
    """Return what WeNet's own searches find in encoder frames (1, M, D), by mode."""
    searches, lengths = wenet_module("transformer.search"), torch.tensor([frames.size(1)])
    log_probs = model.ctc.log_softmax(frames)
    beams = searches.ctc_prefix_beam_search(log_probs, lengths, beam)
    rescored = searches.attention_rescoring(model, beams, frames, lengths, ctc_weight, reverse_weight)
    return {
        GREEDY: searches.ctc_greedy_search(log_probs, lengths)[0],
        PREFIX_BEAM: beams[0],
        RESCORING: rescored[0],
    }


def _init_model(record: dict[str, Any]) -> Any:
    module = wenet_module("utils.init_model")
    arguments = argparse.Namespace(checkpoint=None, enc_init=None, jit=True)
    with _as_wenet(module):
        model, _ = module.init_model(arguments, json.loads(json.dumps(record)))
    return model.eval()


@torch.no_grad()
def _randomise(model: Any, features: torch.Tensor) -> None:
    """Set norms to values as after training, and the CTC head so that frames of `features` differ in their tokens."""
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm1d)):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2.0)
    frames, _ = model.encoder.forward_chunk_by_chunk(features[None], 16, 4)
    head = model.ctc.ctc_lo
    head.weight.normal_(0, 3.0 * head.in_features**-0.5).div_(frames[0].std(0) + 1e-3)
    head.bias.copy_(-head.weight @ frames[0].mean(0))
    scores = head(frames[0])
    head.bias[model.eos] = head.bias[1] = -1e3
    head.bias[0] += (scores[:, 3:].max(1).values - scores[:, 0]).median()  # blank in about half of the frames


def _flags(folder: Path, **flags: object) -> list[str]:
    known = {"config": folder / "train.yaml", "checkpoint": folder / "final.pt", **flags}
    return [text for name, value in known.items() for text in (f"--{name}", str(value))]


def _main(name: str, flags: Sequence[str]) -> None:
    """Run a program of WeNet in this process."""
    module = wenet_module(name)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(mock.patch.object(sys, "argv", [name, *flags]))
        stack.enter_context(mock.patch.dict("os.environ"))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(_as_wenet(wenet_module("utils.init_model")))
        module.main()


@contextlib.contextmanager
def _as_wenet(init_model: types.ModuleType) -> Iterator[None]:
    """Undo two changes by Rev.com that prevent building plain transformers, and scripting models with two decoders."""
    classes, model = init_model.WENET_ENCODER_CLASSES, wenet_module("transformer.asr_model").ASRModel
    # `attention_decoding` calls a method that the class of two decoders lacks.
    no_search = mock.patch.object(model, "attention_decoding", torch.jit.unused(lambda self: None))
    with mock.patch.dict(classes, {"transformer": _without(classes["transformer"], "num_langs")}), no_search:
        yield


def _without(build: Any, name: str) -> Any:
    return lambda *args, **kwargs: build(*args, **{key: value for key, value in kwargs.items() if key != name})
