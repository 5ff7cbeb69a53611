"""Attention decoders (left-to-right and right-to-left) over encoder frames. Know no search and no CTC.

Shapes: B rows, U tokens, T encoder frames, D width, H heads, V vocabulary. The decoder keeps LayerNorm: it runs once
per utterance, on a handful of tokens.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenet_fusion.nn.packing import frame_mask
from wenet_fusion.nn.positions import sinusoids_at


@dataclass(frozen=True)
class DecoderConfig:
    layers: int = 3  # left-to-right; 0: CTC only
    reverse_layers: int = 3  # right-to-left; 0: none
    heads: int = 4
    feed_forward: int = 2048
    dropout: float = 0.1

    def problems(self) -> list[str]:
        found = [f"{name}: {getattr(self, name)} must be at least 1" for name in ("heads", "feed_forward") if getattr(self, name) < 1]
        if self.layers < 0 or self.reverse_layers < 0:
            found.append("layers and reverse_layers must not be negative")
        if self.reverse_layers and not self.layers:
            found.append(f"reverse_layers: {self.reverse_layers} needs a left-to-right decoder (layers: 1 or more)")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout: {self.dropout} is not in [0, 1)")
        return found


class Attention(nn.Module):
    """Multi-head attention of queries (B, U, D) to memory (B or 1, S, D) under a mask (B or 1, U or 1, S).

    Keys and values of a memory that all rows share are computed once.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_BUD: Tensor, memory_BSD: Tensor, mask_BUS: Tensor) -> Tensor:
        batch, dim, frames = x_BUD.size(0), x_BUD.size(2), memory_BSD.size(1)
        split = [self.heads, dim // self.heads]
        query = self.query(x_BUD).view([batch, x_BUD.size(1)] + split).transpose(1, 2)
        key_value = self.key_value(memory_BSD).view([memory_BSD.size(0), frames, 2] + split).permute(2, 0, 3, 1, 4)
        key, value = key_value[0].expand(batch, -1, -1, -1), key_value[1].expand(batch, -1, -1, -1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_BUS.unsqueeze(1))
        return self.out(out.transpose(1, 2).reshape(batch, x_BUD.size(1), dim))


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, attention to the encoder, feed-forward."""

    def __init__(self, dim: int, config: DecoderConfig):
        super().__init__()
        self.self_attention = Attention(dim, config.heads)
        self.source_attention = Attention(dim, config.heads)
        self.expand = nn.Linear(dim, config.feed_forward)
        self.reduce = nn.Linear(config.feed_forward, dim)
        self.norm_1 = nn.LayerNorm(dim)
        self.norm_2 = nn.LayerNorm(dim)
        self.norm_3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BUD: Tensor, causal_BUU: Tensor, memory_BTD: Tensor, memory_mask_B1T: Tensor) -> Tensor:
        normed = self.norm_1(x_BUD)
        x = x_BUD + self.dropout(self.self_attention(normed, normed, causal_BUU))
        x = x + self.dropout(self.source_attention(self.norm_2(x), memory_BTD, memory_mask_B1T))
        hidden = self.dropout(torch.relu(self.expand(self.norm_3(x))))
        return x + self.dropout(self.reduce(hidden))


class Decoder(nn.Module):
    """Token prefixes and encoder frames to logits of the next token: (B, U, V).

    The encoder ends in a residual stream without a norm and knows relative positions only. So the decoder normalises its
    frames and adds their positions; without either it hardly learns where to look.
    """

    def __init__(self, vocabulary_size: int, dim: int, layers: int, config: DecoderConfig):
        super().__init__()
        self.dim = dim
        self.embedding = nn.Embedding(vocabulary_size, dim)
        self.memory_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(dim, config) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, vocabulary_size)

    def forward(self, tokens_BU: Tensor, memory_BTD: Tensor, memory_lengths_B: Tensor) -> Tensor:
        """tokens_BU begin with sos; what follows a row's end changes nothing before it (causal).

        A memory of one row serves all rows of tokens: the hypotheses of one utterance.
        """
        length = tokens_BU.size(1)
        x = self.embedding(tokens_BU) * math.sqrt(self.dim)
        x = self.dropout(x + sinusoids_at(torch.arange(length, device=x.device), x))
        memory = self.memory_norm(memory_BTD)
        position = torch.arange(memory.size(1), device=memory.device)
        memory = memory + sinusoids_at(position, memory)
        causal = frame_mask(torch.arange(1, length + 1, device=x.device), length).unsqueeze(0)  # WeNet's onnxruntime has no tril
        memory_mask = frame_mask(memory_lengths_B, memory_BTD.size(1)).unsqueeze(1)
        for layer in self.layers:
            x = layer(x, causal, memory, memory_mask)
        return self.out(self.norm(x))


class TeacherForcing(NamedTuple):
    inputs_BU: Tensor  # sos, tokens
    targets_BU: Tensor  # tokens, eos
    mask_BU: Tensor  # true where a target counts


def teacher_forcing(tokens_BU: Tensor, lengths_B: Tensor, sos_eos: int, reverse: bool) -> TeacherForcing:
    """Decoder inputs and targets of hypotheses or transcripts; right-to-left reverses each row within its length."""
    index = torch.arange(tokens_BU.size(1), device=tokens_BU.device).unsqueeze(0)
    if reverse:
        tokens_BU = tokens_BU.gather(1, (lengths_B.unsqueeze(1) - 1 - index).clamp(min=0))
    mask = frame_mask(lengths_B + 1, tokens_BU.size(1) + 1)
    edge = torch.full_like(lengths_B, sos_eos).unsqueeze(1)
    inputs = torch.cat([edge, tokens_BU], dim=1).masked_fill(~mask, sos_eos)
    targets = torch.cat([tokens_BU, edge], dim=1).masked_fill(~mask[:, : tokens_BU.size(1) + 1], sos_eos)
    targets = targets.scatter(1, lengths_B.unsqueeze(1), sos_eos)
    return TeacherForcing(inputs, targets, mask)


def sequence_log_probs(logits_BUV: Tensor, targets_BU: Tensor, mask_BU: Tensor) -> Tensor:
    """Log-probability of each row's targets: (B,)."""
    token = logits_BUV.log_softmax(-1).gather(2, targets_BU.unsqueeze(2)).squeeze(2)
    return token.masked_fill(~mask_BU, 0.0).sum(1)
