"""A tiny exported model for tests of the runtime: loudness is the language. Knows nothing of wenet_fusion.

A frame of 40 ms whose mean absolute value is near 0.2, 0.4, 0.6 or 0.8 reads as a, b, c or d, silence as blank. State
and chunks matter as in a real model: each frame also hears the 10 ms before it, and a little of its chunk's mean.
"""

import json
from pathlib import Path
from typing import List, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor, nn

SAMPLE_RATE = 8000
FRAME = 320
CONTEXT = 80
TAIL = 800
TOKENS = ["<blank>", "<unk>", "<sos/eos>", "a", "b", "c", "d"]
LEVELS = [0.0, 9.0, 9.0, 0.2, 0.4, 0.6, 0.8]    # loudness of each token; <unk> and <sos/eos> are never heard


class StreamState(NamedTuple):
    context: Tensor    # (B, CONTEXT)
    chunk: int


class StepOutput(NamedTuple):
    encoder_out: Tensor
    lengths: Tensor
    top_log_probs: Tensor
    top_ids: Tensor
    blank_log_probs: Tensor


class LoudnessModel(nn.Module):
    """`sharpness`: how sure the model is. `shares_chunk`: how much a frame hears of its chunk's mean."""

    def __init__(self, sharpness: float = 200.0, shares_chunk: float = 0.05, top: int = 5) -> None:
        super().__init__()
        self.sharpness, self.shares_chunk, self.top = sharpness, shares_chunk, top
        self.register_buffer("levels", torch.tensor(LEVELS))
        before, now = torch.full((CONTEXT,), 0.05 / CONTEXT), torch.full((FRAME,), 1 / FRAME)
        self.register_buffer("window", torch.cat([before, now]))

    @torch.jit.export
    def init_state(self, batch: int, chunk: int, left: int) -> StreamState:
        return StreamState(torch.zeros(batch, 80), chunk)

    @torch.jit.export
    def step(
        self, samples: Tensor, lengths: Tensor, chunk: int, left: int, state: StreamState
    ) -> Tuple[StepOutput, StreamState]:
        assert samples.size(1) % 320 == 0 and state.chunk == chunk and int(lengths.max()) <= samples.size(1)
        assert float(samples.abs().max()) <= 1.0
        valid = torch.arange(samples.size(1)).unsqueeze(0) < lengths.unsqueeze(1)
        samples = torch.cat([state.context, samples * valid], dim=1)
        loudness = (samples.abs().unfold(1, 400, 320) * self.window).sum(dim=2)       # (B, T)
        frames = torch.div(lengths + 319, 320, rounding_mode="floor")
        heard = torch.arange(loudness.size(1)).unsqueeze(0) < frames.unsqueeze(1)
        blocks: List[Tensor] = []
        for start in range(0, loudness.size(1), chunk):
            block, is_heard = loudness[:, start : start + chunk], heard[:, start : start + chunk]
            mean = (block * is_heard).sum(1, keepdim=True) / is_heard.sum(1, keepdim=True).clamp(min=1)
            blocks.append((1.0 - self.shares_chunk) * block + self.shares_chunk * mean)
        loudness = torch.cat(blocks, dim=1)
        distance = loudness.unsqueeze(2) - self.levels
        log_probs = torch.log_softmax(-self.sharpness * distance * distance, dim=2)
        log_probs_top, ids = log_probs.topk(self.top, dim=2)
        encoder_out = torch.stack([loudness, heard.to(loudness.dtype)], dim=2)
        output = StepOutput(encoder_out, frames, log_probs_top, ids, log_probs[:, :, 0])
        return output, StreamState(samples[:, samples.size(1) - 80 :], chunk)

    @torch.jit.export
    def rescore(self, encoder_out: Tensor, hyps: Tensor, hyp_lengths: Tensor) -> Tensor:
        """Left to right: likes the token b and dislikes length; right to left: likes length."""
        assert encoder_out.size(0) == 1 and encoder_out.size(1) > 0 and hyps.size(0) == hyp_lengths.size(0)
        inside = torch.arange(hyps.size(1)).unsqueeze(0) < hyp_lengths.unsqueeze(1)
        liked = ((hyps == 4) & inside).sum(1).to(torch.float32)
        length = hyp_lengths.to(torch.float32)
        return torch.stack([5.0 * liked - length, length - 50.0], dim=1)


def meta_record() -> dict:
    """A complete meta.json."""
    return {
        "format": 1, "kind": "wenet_fusion.torchscript", "sample_rate": SAMPLE_RATE, "frame_samples": FRAME,
        "tail_samples": TAIL, "chunkings": [{"size": 4, "left": 4}, {"size": 8, "left": 2}],
        "default_chunking": {"size": 8, "left": 2}, "units": TOKENS,
        "tokenizer": {"kind": "char", "join": "words"}, "blank": 0, "sos_eos": 2, "decoder": True,
        "reverse_decoder": True, "decoding": {"ctc_weight": 1.0, "reverse_weight": 0.0}, "precision": "float32",
        "engine": "none", "latency": {"8": {"longest_wait_ms": 320.0}}, "config": "", "versions": {"torch": "any"},
        "verification": {"frames": 0},
    }


def save_model(path: Path, record: dict | None = None, module: nn.Module | None = None) -> Path:
    """Script and save a model as a true exported file."""
    scripted = torch.jit.script((module or LoudnessModel()).eval())
    torch.jit.save(scripted, str(path), _extra_files={"meta.json": json.dumps(record or meta_record())})
    return path


def speak(text: str, frames: int = 3, gap: int = 2) -> np.ndarray:
    """Float32 samples (n,): `gap` frames of silence, then each letter as noise of its loudness (a space as silence) for
    `frames` frames and a gap."""
    rng = np.random.default_rng(0)
    pieces = [np.zeros(gap * FRAME)]
    for letter in text:
        level = 0.0 if letter == " " else LEVELS[TOKENS.index(letter)]
        pieces += [level * rng.choice([-1.0, 1.0], frames * FRAME), np.zeros(gap * FRAME)]
    return np.concatenate(pieces).astype(np.float32)
