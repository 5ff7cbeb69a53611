"""Small models of random sizes with WeNet's interfaces: the eight methods of a script, three graphs, one graph.

The encoder has the difficulties of streaming: right context, attention over cached frames whose keys depend on absolute
positions, and causal convolutions. Its first channel is the loudness of a frame, by which the CTC head reads letters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

RATE, SHIFT, BINS = 16000, 160, 8
TOKENS = ("<blank>", "<unk>", "<sos/eos>", "a", "b", "c", "d")
OLD_TOKENS = ("<blank>", "<unk>", "a", "b", "c", "d", "<sos/eos>")  # in the order of WeNet's first recipes
LEVELS = {"a": 0.004, "b": 0.03, "c": 0.2, "d": 0.9}
SILENCE = -15.94  # log-mel value of digital silence
POSITIONS = 5000


class Shape(NamedTuple):
    """Sizes of a fake model."""

    subsampling: int = 4
    right_context: int = 6
    layers: int = 2
    heads: int = 2
    width: int = 8
    kernel: int = 5
    bidirectional: bool = True
    positions: int = POSITIONS
    sharpness: float = 0.0  # certainty with which loudness is read as letters; 0: random scores of all channels


def random_shape(rng: np.random.Generator) -> Shape:
    """Return the shape of a small model."""
    subsampling = int(rng.choice([4, 6, 8]))
    heads = int(rng.integers(1, 4))
    return Shape(
        subsampling,
        int(rng.integers(subsampling - 1, 2 * subsampling)),
        int(rng.integers(1, 4)),
        heads,
        heads * int(rng.integers(1, 4)),
        int(rng.integers(2, 7)),
        bool(rng.integers(2)),
    )


class FakeWenet(nn.Module):
    """A module with the eight methods that WeNet's libtorch runtime calls."""

    def __init__(self, shape: Shape, tokens: tuple[str, ...] = TOKENS, seed: int = 0) -> None:
        super().__init__()
        self.subsampling, self.context = shape.subsampling, shape.right_context
        self.layers, self.heads, self.width, self.kernel = shape.layers, shape.heads, shape.width, shape.kernel
        self.positions, self.sharpness, self.bidirectional = shape.positions, shape.sharpness, shape.bidirectional
        self.end, width = tokens.index("<sos/eos>"), shape.width
        generator = torch.Generator().manual_seed(seed)

        def random(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator)

        self.register_buffer("mix", random((self.context + 1) * BINS, width) / 30)
        self.register_buffer("query", random(self.layers, width, width))
        self.register_buffer("pair", random(self.layers, width, 2 * width))
        self.register_buffer("table", random(self.positions, width))
        self.register_buffer("taps", random(self.layers, width, 1, self.kernel) / 3)
        self.register_buffer("head", random(width, len(tokens)) * 2)
        self.register_buffer("embedding", random(2, len(tokens), len(tokens)))
        self.register_buffer("memory", random(2, width, len(tokens)))
        energies = [SILENCE, 99.0, 99.0, *(loudness(LEVELS[letter]) for letter in "abcd")]
        by_token = dict(zip(TOKENS, energies))
        self.register_buffer("levels", torch.tensor([by_token[token] for token in tokens]))

    @torch.jit.export
    def subsampling_rate(self) -> int:
        return self.subsampling

    @torch.jit.export
    def right_context(self) -> int:
        return self.context

    @torch.jit.export
    def sos_symbol(self) -> int:
        return self.end

    @torch.jit.export
    def eos_symbol(self) -> int:
        return self.end

    @torch.jit.export
    def is_bidirectional_decoder(self) -> bool:
        return self.bidirectional

    @torch.jit.export
    def forward_encoder_chunk(
        self, xs: Tensor, offset: int, required_cache_size: int, att_cache: Tensor, cnn_cache: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if att_cache.numel() == 0:
            att_cache = torch.zeros(self.layers, self.heads, 0, 2 * (self.width // self.heads))
        if cnn_cache.numel() == 0:
            cnn_cache = torch.zeros(self.layers, 1, self.width, self.kernel - 1)
        frames, cached = (xs.size(1) - self.context - 1) // self.subsampling + 1, att_cache.size(2)
        assert offset + frames < self.positions and offset >= cached
        positions = torch.arange(offset - cached, offset + frames)
        out, att_cache, cnn_cache = self.run(
            xs, positions, torch.ones(cached + frames, dtype=torch.bool), att_cache, cnn_cache
        )
        start = 0 if required_cache_size < 0 else max(cached + frames - required_cache_size, 0)
        return out, att_cache[:, :, start:], cnn_cache

    def run(
        self, xs: Tensor, positions: Tensor, visible: Tensor, att_cache: Tensor, cnn_cache: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (1, M, D) frames and the caches with the new frames, of features (1, T, F)."""
        index = torch.arange(0, xs.size(1) - self.context, self.subsampling).unsqueeze(1)
        windows = xs[0, index + torch.arange(self.context + 1)]  # (M, context + 1, F)
        x = torch.tanh(windows.flatten(1) @ self.mix).unsqueeze(0)
        loud = windows[:, 0].mean(dim=1)
        depth = self.width // self.heads
        attention, convolution = [], []
        for layer in range(self.layers):
            pair = (x @ self.pair[layer]).view(1, -1, self.heads, 2 * depth).transpose(1, 2)
            pair = torch.cat([att_cache[layer : layer + 1], pair], dim=2)
            attention.append(pair)
            place = self.table[positions].view(1, -1, self.heads, depth).transpose(1, 2)
            query = (x @ self.query[layer]).view(1, -1, self.heads, depth).transpose(1, 2)
            scores = query @ (pair[..., :depth] + place).transpose(2, 3) / math.sqrt(depth)
            scores = scores.masked_fill(~visible, -1e9).softmax(-1)
            x = x + (scores @ pair[..., depth:]).transpose(1, 2).flatten(2)
            past = torch.cat([cnn_cache[layer], x.transpose(1, 2)], dim=2)
            convolution.append(past[:, :, past.size(2) - self.kernel + 1 :].unsqueeze(0))
            x = torch.tanh(nn.functional.conv1d(past, self.taps[layer], groups=self.width).transpose(1, 2) + x)
        if self.sharpness > 0:
            x = torch.cat([loud.view(1, -1, 1), x[:, :, 1:]], dim=2)
        return x, torch.cat(attention), torch.cat(convolution)

    @torch.jit.export
    def ctc_activation(self, xs: Tensor) -> Tensor:
        if self.sharpness > 0:
            distance = (xs[:, :, :1] - self.levels).abs()
            return (-self.sharpness * distance).log_softmax(-1)
        return (xs @ self.head).log_softmax(-1)

    @torch.jit.export
    def forward_attention_decoder(
        self, hyps: Tensor, hyps_lens: Tensor, encoder_out: Tensor, reverse_weight: float
    ) -> tuple[Tensor, Tensor]:
        assert encoder_out.size(0) == 1 and hyps.size(1) >= int(hyps_lens.max())
        left = self.score(hyps, encoder_out, 0)
        if not self.bidirectional or reverse_weight == 0.0:
            return left, torch.zeros(1)
        steps = torch.arange(hyps.size(1)).unsqueeze(0)
        backward = torch.where((steps > 0) & (steps < hyps_lens.unsqueeze(1)), hyps_lens.unsqueeze(1) - steps, steps)
        return left, self.score(torch.gather(hyps, 1, backward), encoder_out, 1)

    def score(self, hyps: Tensor, encoder_out: Tensor, side: int) -> Tensor:
        """Return log-probabilities (N, L, V) that depend on all tokens before, and on the frames."""
        seen = self.embedding[side][hyps].cumsum(1)
        return (seen + encoder_out[0].mean(0) @ self.memory[side]).log_softmax(-1)


def loudness(level: float) -> float:
    """Return the approximate mean log-mel value of noise at +-level."""
    return 2 * math.log(level * 32768) + 7.1


def speak(text: str, seconds: float = 0.12, gap: float = 0.12) -> np.ndarray:
    """Return float32 samples (n,) at 16 kHz: each letter as noise of its loudness, a space as a gap."""
    rng, pieces = np.random.default_rng(0), [np.zeros(int(gap * RATE))]
    for letter in text:
        level = LEVELS.get(letter, 0.0)
        pieces += [level * rng.choice([-1.0, 1.0], int(seconds * RATE)), np.zeros(int(gap * RATE))]
    return np.concatenate(pieces).astype(np.float32)
