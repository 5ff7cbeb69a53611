"""The FusionFormer encoder: one `forward` for training, streaming and export. Knows no audio, no tokens, no loss.

Shapes: B utterances, T feature frames on the way in and encoder frames after subsampling, N packed encoder frames,
F mel bins, D width, H heads, C cached frames, K = D / H, W = kernel - 1.
"""

from dataclasses import dataclass
from typing import List, NamedTuple, Optional

import torch
from torch import Tensor, nn

from wenet_fusion.chunking import Chunking, visible
from wenet_fusion.nn.attention import CachedAttention, distance_index
from wenet_fusion.nn.causal_conv import CausalConvolution
from wenet_fusion.nn.feed_forward import FeedForward
from wenet_fusion.nn.packing import frame_mask, unpack, valid_frames
from wenet_fusion.nn.subsampling import FACTOR, STRIDE, Subsampling

# Trials: a last gamma of 1 learns fastest in shallow encoders, 0 (every branch starts as the identity) in deep ones.
SHALLOW_LAYERS = 6


@dataclass(frozen=True)
class EncoderConfig:
    dim: int = 256
    layers: int = 12
    heads: int = 4
    feed_forward: int = 2048
    conv_kernel: int = 8  # frames, the current one included
    subsampling_channels: int = 64
    max_distance: int = 64  # largest relative distance, in frames, that the position bias tells apart
    dropout: float = 0.1
    residual_gamma: Optional[float] = None  # initial scale of each branch's last norm; null: 1 up to 6 layers, else 0

    def problems(self) -> list[str]:
        found = [
            f"{name}: {getattr(self, name)} must be at least 1"
            for name in ("dim", "layers", "heads", "feed_forward", "conv_kernel", "subsampling_channels", "max_distance")
            if getattr(self, name) < 1
        ]
        if self.heads >= 1 and self.dim % self.heads:
            found.append(f"dim: {self.dim} is not a multiple of heads: {self.heads}")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout: {self.dropout} is not in [0, 1)")
        return found


class LayerState(NamedTuple):
    keys: Tensor  # (B, H, C, K)
    values: Tensor  # (B, H, C, K)
    conv: Tensor  # (B, D, W)


class EncoderState(NamedTuple):
    """All that a stream's past means to its future. Its size never changes."""

    position: Tensor  # (B,) frames already emitted; rows may be out of step
    subsampling: List[Tensor]
    layers: List[LayerState]


class EncoderOutput(NamedTuple):
    frames_BTD: Tensor
    lengths_B: Tensor
    state: EncoderState


class LayerOutput(NamedTuple):
    x_ND: Tensor
    state: LayerState


class EncoderLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward; each a residual branch that ends in a norm."""

    def __init__(self, config: EncoderConfig, gamma: float):
        super().__init__()
        dim, dropout = config.dim, config.dropout
        self.feed_forward_in = FeedForward(dim, config.feed_forward, dropout, gamma)
        self.attention = CachedAttention(dim, config.heads, config.max_distance, dropout, gamma)
        self.convolution = CausalConvolution(dim, config.conv_kernel, dropout, gamma)
        self.feed_forward_out = FeedForward(dim, config.feed_forward, dropout, gamma)

    def forward(
        self, x_ND: Tensor, valid_N: Optional[Tensor], visible_BTS: Tensor, distance_TS: Tensor, state: LayerState
    ) -> LayerOutput:
        x = x_ND + self.feed_forward_in(x_ND)
        attended = self.attention(x, valid_N, visible_BTS, distance_TS, state.keys, state.values)
        x = x + attended.y_ND
        convolved = self.convolution(x, valid_N, visible_BTS.size(1), state.conv)
        x = x + convolved.y_ND
        x = x + self.feed_forward_out(x)
        return LayerOutput(x, LayerState(attended.keys_BHCK, attended.values_BHCK, convolved.state_BDW))


class Encoder(nn.Module):
    """Features to encoder frames at a quarter of the rate.

    The law: for every cut at chunk boundaries, the concatenated outputs of the steps equal one step over everything.
    """

    def __init__(self, config: EncoderConfig, num_mel_bins: int):
        super().__init__()
        gamma = config.residual_gamma
        if gamma is None:
            gamma = 1.0 if config.layers <= SHALLOW_LAYERS else 0.0
        self.factor, self.stride = FACTOR, STRIDE  # scripts read attributes, not module constants
        self.dim = config.dim
        self.heads = config.heads
        self.conv_context = config.conv_kernel - 1
        self.max_distance = config.max_distance
        self.subsampling = Subsampling(num_mel_bins, config.dim, config.subsampling_channels)
        self.layers = nn.ModuleList(EncoderLayer(config, gamma) for _ in range(config.layers))
        # Tells a fresh state its dtype and device; a quantised layer's weight could not.
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def init_state(self, batch: int, cache_frames: int) -> EncoderState:
        """The state before the first frame.

        Args:
            batch: B.
            cache_frames: C, chunk size x left context for streaming. Any C gives the same first outputs; a cache that
                is to serve later steps needs the full length. Training needs none: 0.
        """
        zero = self.zero
        position = torch.zeros(batch, dtype=torch.int64, device=zero.device)
        kv = zero.expand(batch, self.heads, cache_frames, self.dim // self.heads)
        conv = zero.expand(batch, self.dim, self.conv_context)
        layers = [LayerState(kv, kv, conv) for _ in self.layers]
        return EncoderState(position, self.subsampling.init_state(batch, zero), layers)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor, chunking: Chunking, state: EncoderState) -> EncoderOutput:
        """One step over any number of whole chunks; only a row's last block may be short.

        Args:
            x_BTF: features; T a multiple of 4.
            lengths_B: valid encoder frames of each row, at most T / 4. What lies beyond changes nothing.
            chunking: who sees whom.
            state: of the previous step or fresh. After a short row its new state is of no use.
        """
        batch, frames = x_BTF.size(0), x_BTF.size(1) // self.factor
        # Garbage beyond a row's end may be NaN, and NaN x 0 is NaN: it is dropped before anything touches it.
        x_BTF = x_BTF.masked_fill(~frame_mask(lengths_B * self.factor, x_BTF.size(1)).unsqueeze(2), 0.0)
        # Only batch statistics must not see padding: without them nothing needs packing.
        valid_half_N: Optional[Tensor] = None
        valid_N: Optional[Tensor] = None
        if self.training:
            valid_half_N = valid_frames(lengths_B * self.stride, frames * self.stride)
            valid_N = valid_frames(lengths_B, frames)
        subsampled = self.subsampling(x_BTF, valid_half_N, valid_N, state.subsampling)
        x = subsampled.frames_ND

        cached = state.layers[0].keys.size(2)
        start_B1 = state.position.unsqueeze(1)
        query_BT = start_B1 + torch.arange(frames, device=x.device)
        key_BS = start_B1 + torch.arange(-cached, frames, device=x.device)
        present_BS = key_BS < (state.position + lengths_B).unsqueeze(1)
        visible_BTS = visible(query_BT, key_BS, chunking) & present_BS.unsqueeze(1)
        distance_TS = distance_index(frames, cached + frames, self.max_distance, x)

        states: List[LayerState] = []
        for i, layer in enumerate(self.layers):
            out = layer(x, valid_N, visible_BTS, distance_TS, state.layers[i])
            x = out.x_ND
            states.append(out.state)
        x_BTD = unpack(x, valid_N, batch, frames)
        return EncoderOutput(x_BTD, lengths_B, EncoderState(state.position + lengths_B, subsampled.state, states))
