"""A tiny exported model for tests of the runtime: it recognises letters by their loudness.

A frame of 40 ms whose mean absolute value is near 0.2, 0.4, 0.6 or 0.8 reads as a, b, c or d, silence as blank. State
and chunks matter as in a real model: each frame also depends on the 10 ms before it, on its chunk's mean, and on the
mean of its left context.
"""

import functools
import io
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.metadata import parse_meta
from wenet_fusion_runtime.model.torch_backend import TorchBackend

SAMPLE_RATE = 8000
FRAME = 320
CONTEXT = 80
TAIL = 800
TOKENS = ["<blank>", "<unk>", "<sos/eos>", "a", "b", "c", "d"]
LEVELS = [0.0, 9.0, 9.0, 0.2, 0.4, 0.6, 0.8]  # loudness of each token; <unk> and <sos/eos> are out of reach
OPSET = 17

Scores = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # the fields of StepScores


class LoudnessModel(nn.Module):
    """`sharpness`: certainty of the model. `shares_chunk`, `shares_past`: weights of the chunk's mean and of the cached
    frames' mean in a frame. State: samples (B, CONTEXT), position (B,), loudness of cached frames (B, C)."""

    def __init__(
        self, sharpness: float = 200.0, shares_chunk: float = 0.05, shares_past: float = 0.02, top: int = 5
    ) -> None:
        super().__init__()
        self.sharpness, self.shares_chunk, self.shares_past, self.top = sharpness, shares_chunk, shares_past, top
        self.register_buffer("levels", torch.tensor(LEVELS))

    @torch.jit.export
    def init_state(self, batch: int, chunk: int, left: int) -> list[Tensor]:
        return [torch.zeros(batch, 80), torch.zeros(batch, dtype=torch.int64), torch.zeros(batch, chunk * left)]

    @torch.jit.export
    def step(
        self, samples: Tensor, lengths: Tensor, chunk: int, left: int, state: list[Tensor]
    ) -> tuple[Scores, list[Tensor]]:
        assert samples.size(1) % 320 == 0 and state[2].size(1) == chunk * left and int(lengths.max()) <= samples.size(1)
        assert float(samples.abs().max()) <= 1.0
        blocks: list[Tensor] = []
        for start in range(0, samples.size(1), chunk * 320):
            block = samples[:, start : start + chunk * 320]
            loudness, state = self.frame_loudness(block, (lengths - start).clamp(0, block.size(1)), state)
            blocks.append(loudness)
        return self.score(torch.cat(blocks, dim=1), lengths), state

    def frame_loudness(self, samples: Tensor, lengths: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the loudness of each frame of a chunk (B, T), with its context, and the next state."""
        valid = torch.arange(samples.size(1)).unsqueeze(0) < lengths.unsqueeze(1)
        samples = torch.cat([state[0], samples * valid], dim=1)
        size = samples.abs()
        now = size[:, 80:].reshape(size.size(0), -1, 320).mean(dim=2)
        before = size[:, :-80].reshape(size.size(0), -1, 320)[:, :, :80].mean(dim=2)
        loudness = now + 0.05 * before
        frames = self.frames(lengths)
        is_frame = torch.arange(loudness.size(1)).unsqueeze(0) < frames.unsqueeze(1)
        mean = (loudness * is_frame).sum(1, keepdim=True) / is_frame.sum(1, keepdim=True).clamp(min=1)
        cached = state[2].size(1)
        exists = torch.arange(cached).unsqueeze(0) >= cached - state[1].unsqueeze(1)
        past = (state[2] * exists).sum(1, keepdim=True) / exists.sum(1, keepdim=True).clamp(min=1)
        mixed = (1.0 - self.shares_chunk) * loudness + self.shares_chunk * mean + self.shares_past * past
        cache = torch.cat([state[2], loudness], dim=1)
        next_state = [samples[:, samples.size(1) - 80 :], state[1] + frames, cache[:, cache.size(1) - cached :]]
        return mixed, next_state

    def frames(self, lengths: Tensor) -> Tensor:
        return torch.div(lengths + 319, 320, rounding_mode="floor")

    def score(self, loudness: Tensor, lengths: Tensor) -> Scores:
        distance = loudness.unsqueeze(2) - self.levels
        log_probs = torch.log_softmax(-self.sharpness * distance * distance, dim=2)
        top_log_probs, top_ids = log_probs.topk(self.top, dim=2)
        frames = self.frames(lengths)
        is_frame = torch.arange(loudness.size(1)).unsqueeze(0) < frames.unsqueeze(1)
        encoder_out = torch.stack([loudness, is_frame.to(loudness.dtype)], dim=2)
        return encoder_out, frames, top_log_probs, top_ids, log_probs[:, :, 0]

    @torch.jit.export
    def rescore(self, encoder_out: Tensor, hyps: Tensor, hyp_lengths: Tensor) -> Tensor:
        """Return scores (N, 2): left to right, which favours token b and short texts; right to left, long texts."""
        inside = torch.arange(hyps.size(1)).unsqueeze(0) < hyp_lengths.unsqueeze(1)
        liked = ((hyps == 4) & inside).sum(1).to(torch.float32)
        length = hyp_lengths.to(torch.float32)
        return torch.stack([5.0 * liked - length, length - 50.0 + 0.001 * encoder_out[0, :, 1].sum()], dim=1)

    @torch.jit.export
    def concat_states(self, states: list[list[Tensor]]) -> list[Tensor]:
        return [torch.cat([state[i] for state in states]) for i in range(len(states[0]))]

    @torch.jit.export
    def split_state(self, state: list[Tensor]) -> list[list[Tensor]]:
        return [[tensor[row : row + 1] for tensor in state] for row in range(state[0].size(0))]


def meta_record() -> dict:
    """Return a complete meta.json of a TorchScript file."""
    return {
        "format": 2,
        "kind": "wenet_fusion.torchscript",
        "sample_rate": SAMPLE_RATE,
        "frame_samples": FRAME,
        "tail_samples": TAIL,
        "chunkings": [{"size": 4, "left": 4}, {"size": 8, "left": 2}],
        "default_chunking": {"size": 8, "left": 2},
        "units": TOKENS,
        "tokenizer": {"kind": "char", "join": "words"},
        "blank": 0,
        "sos_eos": 2,
        "decoder": True,
        "reverse_decoder": True,
        "decoding": {"ctc_weight": 1.0, "reverse_weight": 0.0},
        "precision": "float32",
        "engine": "none",
        "latency": {"8": {"longest_wait_ms": 320.0}},
        "config": "",
        "versions": {"torch": "any"},
        "verification": {"frames": 0},
    }


def onnx_record() -> dict:
    """Return a complete meta.json of an ONNX archive."""
    state = [
        ["samples", "float32", ["batch", CONTEXT]],
        ["position", "int64", ["batch"]],
        ["loudness", "float32", ["batch", "cache"]],
    ]
    return meta_record() | {"kind": "wenet_fusion.onnx", "engine": "onnxruntime", "state": state}


def save_model(path: Path, record: dict | None = None, module: nn.Module | None = None) -> Path:
    """Script a model and save it as an exported file."""
    scripted = torch.jit.script((module or LoudnessModel()).eval())
    torch.jit.save(scripted, str(path), _extra_files={"meta.json": json.dumps(record or meta_record())})
    return path


def save_archive(path: Path, record: dict | None = None, sharpness: float = 200.0) -> Path:
    """Save the same model as an ONNX archive."""
    return write_zip(path, {"meta.json": json.dumps(record or onnx_record()).encode(), **onnx_graphs(sharpness)})


SAVERS = {"torchscript": save_model, "onnx": save_archive}  # function that saves each kind of file


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_model(module: LoudnessModel | None = None, **changes: object) -> AcousticModel:
    """Return a model in memory; `changes` replace values of its meta.json."""
    backend = TorchBackend((module or LoudnessModel()).eval())
    return AcousticModel(backend, parse_meta(meta_record() | changes, "memory"))


class _OneChunk(nn.Module):
    def __init__(self, model: LoudnessModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, samples: Tensor, lengths: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        loudness, next_state = self.model.frame_loudness(samples, lengths, list(state))
        return (*self.model.score(loudness, lengths), *next_state)


class _Rescore(nn.Module):
    def __init__(self, model: LoudnessModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, encoder_out: Tensor, hyps: Tensor, hyp_lengths: Tensor) -> Tensor:
        return self.model.rescore(encoder_out, hyps, hyp_lengths)


@functools.cache
def onnx_graphs(sharpness: float = 200.0) -> dict[str, bytes]:
    """Return step.onnx and rescore.onnx."""
    model = LoudnessModel(sharpness).eval()
    rows, scores = {0: "batch"}, ("encoder_out", "frames", "top_log_probs", "top_ids", "blank_log_probs")
    state = {"state_0": rows, "state_1": rows, "state_2": {0: "batch", 1: "cache"}}
    step = _export(
        _OneChunk(model),
        (torch.zeros(2, 4 * FRAME), torch.tensor([4 * FRAME, 7]), *model.init_state(2, 4, 2)),
        {"samples": {0: "batch", 1: "samples"}, "lengths": rows, **state},
        (*scores, *(f"next_{name}" for name in state)),
    )
    rescore = _export(
        _Rescore(model),
        (torch.zeros(1, 5, 2), torch.zeros(3, 2, dtype=torch.int64), torch.tensor([2, 0, 1])),
        {"encoder_out": {1: "frames"}, "hyps": {0: "hyps", 1: "tokens"}, "hyp_lengths": {0: "hyps"}},
        ("scores",),
    )
    return {"step.onnx": step, "rescore.onnx": rescore}


def _export(module: nn.Module, examples: tuple[Tensor, ...], inputs: dict, outputs: tuple[str, ...]) -> bytes:
    """Return the ONNX graph of a module; `inputs` gives the dynamic axes of each input."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            examples,
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=inputs,
        )
    return buffer.getvalue()


def speak(text: str, frames: int = 3, gap: int = 2) -> np.ndarray:
    """Return float32 samples (n,): a gap, then each letter as noise of its loudness (a space as silence) for `frames`
    frames, followed by a gap. A gap is `gap` frames of silence."""
    rng = np.random.default_rng(0)
    pieces = [np.zeros(gap * FRAME)]
    for letter in text:
        level = 0.0 if letter == " " else LEVELS[TOKENS.index(letter)]
        pieces += [level * rng.choice([-1.0, 1.0], frames * FRAME), np.zeros(gap * FRAME)]
    return np.concatenate(pieces).astype(np.float32)
