"""Attention decoders (left-to-right and right-to-left) over encoder frames. Know no search and no CTC.

Shapes: B rows, U tokens, T encoder frames, D width, H heads, K = D / H, V vocabulary. The decoder keeps LayerNorm: it runs once
per utterance, on a handful of tokens.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenet_fusion.model.layers.packing import frame_mask
from wenet_fusion.model.layers.sinusoids import sinusoids


@dataclass(frozen=True)
class DecoderConfig:
    layers: int = 3  # left-to-right layers; 0: CTC only
    reverse_layers: int = 3  # right-to-left layers; 0: none
    heads: int = 4  # attention heads; must divide the encoder's dim
    feed_forward: int = 2048  # hidden width of the feed-forward blocks
    dropout: float = 0.1  # dropout probability of every block

    def problems(self) -> list[str]:
        found = [
            f"{name}: {getattr(self, name)} must be at least 1"
            for name in ("heads", "feed_forward")
            if getattr(self, name) < 1
        ]
        if self.layers < 0 or self.reverse_layers < 0:
            found.append("layers and reverse_layers must not be negative")
        if self.reverse_layers and not self.layers:
            found.append(f"reverse_layers: {self.reverse_layers} needs a left-to-right decoder (layers: 1 or more)")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout: {self.dropout} is not in [0, 1)")
        return found


class KeysValues(NamedTuple):
    """A memory as attention reads it: (B, H, S, K) each."""

    keys: Tensor
    values: Tensor


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
        memory, batch = self.keys_values(memory_BSD), x_BUD.size(0)
        keys, values = memory.keys.expand(batch, -1, -1, -1), memory.values.expand(batch, -1, -1, -1)
        return self.attend(x_BUD, KeysValues(keys, values), mask_BUS)

    def keys_values(self, memory_BSD: Tensor) -> KeysValues:
        rows, frames, dim = memory_BSD.size(0), memory_BSD.size(1), memory_BSD.size(2)
        split = self.key_value(memory_BSD).view([rows, frames, 2, self.heads, dim // self.heads]).permute(2, 0, 3, 1, 4)
        return KeysValues(split[0], split[1])

    def attend(self, x_BUD: Tensor, memory: KeysValues, mask_BUS: Tensor) -> Tensor:
        """`memory` has B rows."""
        batch, length, dim = x_BUD.size(0), x_BUD.size(1), x_BUD.size(2)
        query = self.query(x_BUD).view([batch, length, self.heads, dim // self.heads]).transpose(1, 2)
        out = F.scaled_dot_product_attention(query, memory.keys, memory.values, attn_mask=mask_BUS.unsqueeze(1))
        return self.out(out.transpose(1, 2).reshape(batch, length, dim))


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
        return self._feed_forward(x)

    def _feed_forward(self, x_BUD: Tensor) -> Tensor:
        hidden = self.dropout(torch.relu(self.expand(self.norm_3(x_BUD))))
        return x_BUD + self.dropout(self.reduce(hidden))

    def step(
        self, x_BND: Tensor, past: KeysValues, memory: KeysValues, memory_mask_B1T: Tensor
    ) -> tuple[Tensor, KeysValues]:
        """The next token of N prefixes of each of B memories, whose B * N rows saw `past`; returns what they see now."""
        normed_R1D = self.norm_1(x_BND).flatten(0, 1).unsqueeze(1)
        seen = KeysValues(*(torch.cat(pair, dim=2) for pair in zip(past, self.self_attention.keys_values(normed_R1D))))
        everything = torch.ones(1, 1, seen.keys.size(2), dtype=torch.bool, device=x_BND.device)
        x = x_BND + self.self_attention.attend(normed_R1D, seen, everything).view_as(x_BND)
        x = x + self.source_attention.attend(self.norm_2(x), memory, memory_mask_B1T)
        return self._feed_forward(x), seen


class DecoderState(NamedTuple):
    """N prefixes, all of U tokens, of each of B utterances, between two steps. One entry for each layer."""

    memory: tuple[KeysValues, ...]  # of the encoder: (B, H, T, K)
    memory_mask_B1T: Tensor
    past: tuple[KeysValues, ...]  # of the prefixes: (B * N, H, U, K)

    def follow(self, rows_R: Tensor) -> "DecoderState":
        """Prefixes in the place of others: row r of the new `past` is row rows_R[r] of this."""
        return self._replace(past=tuple(KeysValues(keys[rows_R], values[rows_R]) for keys, values in self.past))

    def keep(self, utterances_S: Tensor) -> "DecoderState":
        """Without the memories of the other utterances; `follow` drops their prefixes."""
        memory = tuple(KeysValues(keys[utterances_S], values[utterances_S]) for keys, values in self.memory)
        return self._replace(memory=memory, memory_mask_B1T=self.memory_mask_B1T[utterances_S])


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
        x = self.dropout(self._embed(tokens_BU, torch.arange(length, device=tokens_BU.device)))
        memory = self._placed(memory_BTD)
        causal = frame_mask(torch.arange(1, length + 1, device=x.device), length).unsqueeze(
            0
        )  # WeNet's onnxruntime has no tril
        memory_mask = frame_mask(memory_lengths_B, memory_BTD.size(1)).unsqueeze(1)
        for layer in self.layers:
            x = layer(x, causal, memory, memory_mask)
        return self.out(self.norm(x))

    def _embed(self, tokens_BU: Tensor, positions_U: Tensor) -> Tensor:
        x = self.embedding(tokens_BU) * math.sqrt(self.dim)
        return x + sinusoids(positions_U, self.dim, x)

    def _placed(self, memory_BTD: Tensor) -> Tensor:
        """Encoder frames as the layers see them: normalised, with their positions."""
        memory = self.memory_norm(memory_BTD)
        return memory + sinusoids(torch.arange(memory.size(1), device=memory.device), self.dim, memory)

    def start(self, memory_BTD: Tensor, memory_lengths_B: Tensor) -> DecoderState:
        """The state of one empty prefix for each of B memories, whose keys and values are computed here, once."""
        placed = self._placed(memory_BTD)
        memory = tuple(layer.source_attention.keys_values(placed) for layer in self.layers)
        past = tuple(KeysValues(keys[:, :, :0], values[:, :, :0]) for keys, values in memory)
        return DecoderState(memory, frame_mask(memory_lengths_B, memory_BTD.size(1)).unsqueeze(1), past)

    def step(self, tokens_BN: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Logits (B, N, V) of what follows one more token of each prefix: `forward`, token by token, without dropout."""
        length = state.past[0].keys.size(2)
        x = self._embed(tokens_BN, torch.full_like(tokens_BN[0], length))
        seen = []
        for layer, past, memory in zip(self.layers, state.past, state.memory):
            x, now = layer.step(x, past, memory, state.memory_mask_B1T)
            seen.append(now)
        return self.out(self.norm(x)), state._replace(past=tuple(seen))


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
