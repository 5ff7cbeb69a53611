"""WeNet itself where it can be imported: its models with random weights, and its own decoding.

The `wenet` package is WeNet as Rev.com ships it in rev-reverb 0.1.0.
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from conftest import absent
from parts.training.wenet_package import import_wenet
from parts.wenet_models import init_model
from support.wenet.wenet_recipe import BINS, Recipe
from torch import nn
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM, RESCORING

RATE = 16000


def wenet_module(name: str) -> types.ModuleType:
    """Import a module of WeNet. Without it, skip the test, or fail it if WENET_FUSION_REQUIRE_WENET demands WeNet."""
    try:
        return import_wenet(name)
    except ImportError as error:
        absent(f"WeNet is missing: {error}", "WENET_FUSION_REQUIRE_WENET")


def write_experiment(folder: Path, recipe: Recipe, speech: np.ndarray, seed: int = 0) -> Path:
    """Write the folder of a training: train.yaml, global_cmvn, units.txt, final.pt.

    The weights are random; the CTC head is scaled so that its scores of `speech` (samples) name many tokens.
    """
    wenet_module("utils.init_model")
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
    model = init_model(record)
    _randomise(model, features)
    torch.save(model.state_dict(), folder / "final.pt")
    return folder


def load_experiment(folder: Path) -> Any:
    """Return WeNet's own model of a folder, for decoding."""
    record = yaml.safe_load((folder / "train.yaml").read_text(encoding="utf-8"))
    model = init_model(record)
    model.load_state_dict(torch.load(folder / "final.pt"))
    return model.requires_grad_(False)


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
