"""Attention decoders, left-to-right and right-to-left, over encoder frames (Vaswani et al., arXiv 1706.03762).

The decoders have LayerNorm, which cannot fold. It costs little: an exported model runs them once per utterance.

Shapes: B rows, N prefixes per row, R rows of prefixes, U tokens, T encoder frames, S memory frames, D width, H heads,
K = D / H, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenet_fusion.model.layers.dropout import Dropout
from wenet_fusion.model.layers.packing import frame_mask
from wenet_fusion.model.layers.positions.sinusoids import sinusoids

# Initial variance of embeddings, before the factor sqrt(dim). "normal": 1, as in WeNet; "scaled": 1 / dim.
EmbeddingInit = Literal["normal", "scaled"]


@dataclass(frozen=True)
class DecoderConfig:
    """Settings of the attention decoders.

    >>> DecoderConfig(layers=0, reverse_layers=3).problems()
    ['reverse_layers: 3 needs a left-to-right decoder (layers: 1 or more)']
    """

    layers: int = 3  # left-to-right layers; 0: CTC only
    reverse_layers: int = 3  # right-to-left layers; 0: none
    heads: int = 4  # attention heads; must divide the encoder's dim
    feed_forward: int = 2048  # hidden width of the feed-forward blocks
    dropout: float = 0.1  # dropout probability of every block
    embedding_init: EmbeddingInit = "normal"  # initial variance of embeddings; normal: 1, scaled: 1 / dim

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
    """Keys and values of a memory: (B, H, S, K) each."""

    keys: Tensor
    values: Tensor


class Attention(nn.Module):
    """Multi-head attention of queries (B, U, D) to memory (B or 1, S, D) under a mask (B or 1, U or 1, S).

    If all rows share one memory, its keys and values are computed once.

    Args:
        dim, heads: D and H.

    >>> attention = Attention(dim=4, heads=2)
    >>> attention(torch.zeros(3, 2, 4), torch.zeros(1, 5, 4), torch.ones(1, 1, 5, dtype=torch.bool)).shape
    torch.Size([3, 2, 4])
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_BUD: Tensor, memory_BSD: Tensor, mask_BUS: Tensor) -> Tensor:
        """Return (B, U, D)."""
        memory, batch = self.keys_values(memory_BSD), x_BUD.size(0)
        keys, values = memory.keys.expand(batch, -1, -1, -1), memory.values.expand(batch, -1, -1, -1)
        return self.attend(x_BUD, KeysValues(keys, values), mask_BUS)

    def keys_values(self, memory_BSD: Tensor) -> KeysValues:
        """Return the keys and values of a memory."""
        rows, frames, dim = memory_BSD.size(0), memory_BSD.size(1), memory_BSD.size(2)
        split = self.key_value(memory_BSD).view([rows, frames, 2, self.heads, dim // self.heads]).permute(2, 0, 3, 1, 4)
        return KeysValues(split[0], split[1])

    def attend(self, x_BUD: Tensor, memory: KeysValues, mask_BUS: Tensor) -> Tensor:
        """Return (B, U, D) for keys and values of B rows."""
        batch, length, dim = x_BUD.size(0), x_BUD.size(1), x_BUD.size(2)
        query = self.query(x_BUD).view([batch, length, self.heads, dim // self.heads]).transpose(1, 2)
        out = F.scaled_dot_product_attention(query, memory.keys, memory.values, attn_mask=mask_BUS.unsqueeze(1))
        return self.out(out.transpose(1, 2).reshape(batch, length, dim))


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, attention to the encoder, feed-forward: (B, U, D) -> (B, U, D).

    Args:
        dim: D.
        config: the decoders' settings.

    >>> layer, mask = DecoderLayer(4, DecoderConfig(heads=2, feed_forward=8)), torch.ones(1, 1, 1, dtype=torch.bool)
    >>> layer(torch.zeros(3, 1, 4), mask, torch.zeros(3, 1, 4), mask).shape
    torch.Size([3, 1, 4])
    """

    def __init__(self, dim: int, config: DecoderConfig):
        super().__init__()
        self.self_attention = Attention(dim, config.heads)
        self.source_attention = Attention(dim, config.heads)
        self.expand = nn.Linear(dim, config.feed_forward)
        self.reduce = nn.Linear(config.feed_forward, dim)
        self.norm_1 = nn.LayerNorm(dim)
        self.norm_2 = nn.LayerNorm(dim)
        self.norm_3 = nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BUD: Tensor, causal_BUU: Tensor, memory_BTD: Tensor, memory_mask_B1T: Tensor) -> Tensor:
        """Return (B, U, D); the masks are true where attention may look."""
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
        """Process the next token of N prefixes per memory; return (B, N, D) and the prefixes' keys and values."""
        normed_R1D = self.norm_1(x_BND).flatten(0, 1).unsqueeze(1)
        seen = KeysValues(*(torch.cat(pair, dim=2) for pair in zip(past, self.self_attention.keys_values(normed_R1D))))
        everything = torch.ones(1, 1, seen.keys.size(2), dtype=torch.bool, device=x_BND.device)
        x = x_BND + self.self_attention.attend(normed_R1D, seen, everything).view_as(x_BND)
        x = x + self.source_attention.attend(self.norm_2(x), memory, memory_mask_B1T)
        return self._feed_forward(x), seen


class DecoderState(NamedTuple):
    """Keys and values of N prefixes of U tokens, for each of B utterances; one entry per layer."""

    memory: tuple[KeysValues, ...]  # the encoder's: (B, H, T, K)
    memory_mask_B1T: Tensor
    past: tuple[KeysValues, ...]  # the prefixes': (B * N, H, U, K)

    def follow(self, rows_R: Tensor) -> "DecoderState":
        """Return the state with the prefixes reordered: row r of the new `past` is row rows_R[r] of this one."""
        return self._replace(past=tuple(KeysValues(keys[rows_R], values[rows_R]) for keys, values in self.past))

    def keep(self, utterances_S: Tensor) -> "DecoderState":
        """Return the state with the memories of these utterances only; drop the prefixes of the others by `follow`."""
        memory = tuple(KeysValues(keys[utterances_S], values[utterances_S]) for keys, values in self.memory)
        return self._replace(memory=memory, memory_mask_B1T=self.memory_mask_B1T[utterances_S])


class Decoder(nn.Module):
    """Map token prefixes and encoder frames to logits of the next token: (B, U), (B, T, D) -> (B, U, V).

    A FusionFormer's output has no norm and no absolute positions. Without them, a decoder hardly learns where to
    attend, so this one normalises the encoder frames and adds their positions.

    Args:
        vocabulary_size: V.
        dim: D.
        layers: number of layers.
        config: heads, widths and dropout.

    >>> decoder = Decoder(10, dim=4, layers=1, config=DecoderConfig(heads=2, feed_forward=8))
    >>> decoder(torch.tensor([[2, 5]]), torch.zeros(1, 3, 4), torch.tensor([3])).shape
    torch.Size([1, 2, 10])
    """

    def __init__(self, vocabulary_size: int, dim: int, layers: int, config: DecoderConfig):
        super().__init__()
        self.dim = dim
        self.embedding = nn.Embedding(vocabulary_size, dim)
        if config.embedding_init == "scaled":
            with torch.no_grad():
                self.embedding.weight.mul_(dim**-0.5)
        self.memory_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(dim, config) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, vocabulary_size)

    def forward(self, tokens_BU: Tensor, memory_BTD: Tensor, memory_lengths_B: Tensor) -> Tensor:
        """Return logits (B, U, V) of the token after each prefix.

        Args:
            tokens_BU: begin with sos, padded with any token; attention is causal, so padding changes no valid logits.
            memory_BTD: encoder frames: one row per row of tokens, or a single row that all hypotheses share.
            memory_lengths_B: valid frames of each row.
        """
        length = tokens_BU.size(1)
        x = self.dropout(self._embed(tokens_BU, torch.arange(length, device=tokens_BU.device)))
        memory = self._placed(memory_BTD)
        # Not torch.tril: the old onnxruntime of WeNet's C++ runtime lacks this operator.
        causal = frame_mask(torch.arange(1, length + 1, device=x.device), length).unsqueeze(0)
        memory_mask = frame_mask(memory_lengths_B, memory_BTD.size(1)).unsqueeze(1)
        for layer in self.layers:
            x = layer(x, causal, memory, memory_mask)
        return self.out(self.norm(x))

    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]

    def _embed(self, tokens_BU: Tensor, positions_U: Tensor) -> Tensor:
        x = self.embedding(tokens_BU) * math.sqrt(self.dim)
        return x + sinusoids(positions_U, self.dim, x)

    def _placed(self, memory_BTD: Tensor) -> Tensor:
        """Return encoder frames, normalised and with their positions."""
        memory = self.memory_norm(memory_BTD)
        return memory + sinusoids(torch.arange(memory.size(1), device=memory.device), self.dim, memory)

    def start(self, memory_BTD: Tensor, memory_lengths_B: Tensor) -> DecoderState:
        """Return the state of one empty prefix per memory; keys and values of the memories are computed once, here."""
        placed = self._placed(memory_BTD)
        memory = tuple(layer.source_attention.keys_values(placed) for layer in self._layers())
        past = tuple(KeysValues(keys[:, :, :0], values[:, :, :0]) for keys, values in memory)
        return DecoderState(memory, frame_mask(memory_lengths_B, memory_BTD.size(1)).unsqueeze(1), past)

    def step(self, tokens_BN: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Extend each prefix by one token; return the logits (B, N, V) of the following token, and the next state."""
        length = state.past[0].keys.size(2)
        x = self._embed(tokens_BN, torch.full_like(tokens_BN[0], length))
        seen = []
        for layer, past, memory in zip(self._layers(), state.past, state.memory):
            x, now = layer.step(x, past, memory, state.memory_mask_B1T)
            seen.append(now)
        return self.out(self.norm(x)), state._replace(past=tuple(seen))


class TeacherForcing(NamedTuple):
    """A decoder's inputs and targets for training and rescoring."""

    inputs_BU: Tensor  # sos, tokens
    targets_BU: Tensor  # tokens, eos
    mask_BU: Tensor  # true where a target counts


def teacher_forcing(tokens_BU: Tensor, lengths_B: Tensor, sos_eos: int, reverse: bool) -> TeacherForcing:
    """Return decoder inputs and targets of hypotheses or transcripts.

    Args:
        tokens_BU: without sos and eos, padded with any token.
        lengths_B: tokens of each row.
        sos_eos: id of the token at both ends.
        reverse: true for the right-to-left decoder: each row is reversed within its length.

    >>> teacher_forcing(torch.tensor([[5, 6]]), torch.tensor([2]), sos_eos=2, reverse=True).inputs_BU.tolist()
    [[2, 6, 5]]
    """
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
    """Return the log-probability of each row's targets: (B,)."""
    token = logits_BUV.log_softmax(-1).gather(2, targets_BU.unsqueeze(2)).squeeze(2)
    return token.masked_fill(~mask_BU, 0.0).sum(1)
