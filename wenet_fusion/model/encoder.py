"""The FusionFormer encoder: one `forward` for training, streaming and export. Knows no audio, no tokens, no loss.

Shapes: B utterances, T feature frames on the way in and encoder frames after subsampling, N packed encoder frames,
F mel bins, D width, H heads, C cached frames, S = C + T keys, L layers, W = kernel - 1.
"""

from dataclasses import dataclass
from typing import List, Literal, NamedTuple, Optional

import torch
from torch import Tensor, nn

from wenet_fusion.model.chunking import Chunking, visible
from wenet_fusion.model.layers.attention import MASKED, CachedAttention
from wenet_fusion.model.layers.convolution import CausalConvolution
from wenet_fusion.model.layers.feed_forward import FeedForward
from wenet_fusion.model.layers.norm import NormKind, branch_norm
from wenet_fusion.model.layers.packing import frame_mask, unpack, valid_frames
from wenet_fusion.model.layers.position_bias import PositionBias
from wenet_fusion.model.layers.sinusoids import sinusoids_at
from wenet_fusion.model.layers.subsampling import FACTOR, STRIDE, Subsampling

# Trials: a last gamma of 1 learns fastest in shallow encoders, 0 (every branch starts as the identity) in deep ones.
SHALLOW_LAYERS = 6


@dataclass(frozen=True)
class EncoderConfig:
    dim: int = 256  # width of an encoder frame
    layers: int = 12  # encoder layers
    heads: int = 4  # attention heads; must divide dim
    feed_forward: int = 2048  # hidden width of the feed-forward branches
    conv_kernel: int = 8  # frames that the causal convolution sees, the current one included
    subsampling_channels: int = 64  # channels of the convolutions that subsample features by 4
    max_distance: int = 64  # largest relative distance, in frames, that the position bias tells apart
    dropout: float = 0.1  # dropout probability of every branch
    residual_gamma: Optional[float] = None  # initial scale of each branch's last norm; null: 1 up to 6 layers, else 0
    # A FusionFormer, unless one of these is changed to compare it with what others build; a Conformer as WeNet trains it
    # is norm: layer, activation: swish, gated: true, positions: products.
    norm: NormKind = "fusion"  # where norms stand: fusion has a BatchNorm after every linear and convolution
    activation: Literal["relu", "swish"] = "relu"  # activation of every branch; only relu folds at export
    gated: bool = False  # GLU in the convolution branch
    positions: Literal["bias", "products"] = (
        "bias"  # relative positions: a learned bias per distance and head, or products as in a Conformer
    )

    @property
    def fusible(self) -> bool:
        """No normalisation, and nothing dearer than ReLU, is left at inference."""
        return self.norm in ("fusion", "none") and self.activation == "relu" and not self.gated

    def problems(self) -> list[str]:
        found = [
            f"{name}: {getattr(self, name)} must be at least 1"
            for name in (
                "dim",
                "layers",
                "heads",
                "feed_forward",
                "conv_kernel",
                "subsampling_channels",
                "max_distance",
            )
            if getattr(self, name) < 1
        ]
        if self.heads >= 1 and self.dim % self.heads:
            found.append(f"dim: {self.dim} is not a multiple of heads: {self.heads}")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout: {self.dropout} is not in [0, 1)")
        return found


class LayerState(NamedTuple):
    keys_values: Tensor  # (B, C, 2D)
    conv: Tensor  # (B, W, D)


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
        dim, dropout, normed = config.dim, config.dropout, config.norm == "fusion"
        swish, products = config.activation == "swish", config.positions == "products"
        self.norm_1 = branch_norm(config.norm, dim)
        self.feed_forward_in = FeedForward(dim, config.feed_forward, dropout, gamma, normed, swish)
        self.norm_2 = branch_norm(config.norm, dim)
        self.attention = CachedAttention(dim, config.heads, dropout, gamma, normed, products)
        self.norm_3 = branch_norm(config.norm, dim)
        self.convolution = CausalConvolution(dim, config.conv_kernel, dropout, gamma, config.norm, swish, config.gated)
        self.norm_4 = branch_norm(config.norm, dim)
        self.feed_forward_out = FeedForward(dim, config.feed_forward, dropout, gamma, normed, swish)
        self.norm_5 = branch_norm(config.norm, dim)

    def forward(
        self,
        x_ND: Tensor,
        valid_N: Optional[Tensor],
        frames: int,
        bias_BHTS: Tensor,
        position_BSD: Optional[Tensor],
        state: LayerState,
    ) -> LayerOutput:
        x = x_ND + self.feed_forward_in(self.norm_1(x_ND))
        attended = self.attention(self.norm_2(x), valid_N, frames, bias_BHTS, position_BSD, state.keys_values)
        x = x + attended.y_ND
        convolved = self.convolution(self.norm_3(x), valid_N, frames, state.conv)
        x = x + convolved.y_ND
        x = x + self.feed_forward_out(self.norm_4(x))
        return LayerOutput(self.norm_5(x), LayerState(attended.keys_values, convolved.state_BWD))


class Encoder(nn.Module):
    """Features to encoder frames at a quarter of the rate.

    The law: for every cut at chunk boundaries, the concatenated outputs of the steps equal one step over everything.
    """

    def __init__(self, config: EncoderConfig, num_mel_bins: int):
        super().__init__()
        gamma = config.residual_gamma
        if gamma is None:
            gamma = 1.0 if config.layers <= SHALLOW_LAYERS else 0.0
        self.factor, self.stride, self.masked = FACTOR, STRIDE, MASKED  # scripts read attributes, not module constants
        self.dim = config.dim
        self.conv_context = config.conv_kernel - 1
        self.subsampling = Subsampling(num_mel_bins, config.dim, config.subsampling_channels, config.norm == "fusion")
        self.layers = nn.ModuleList(EncoderLayer(config, gamma) for _ in range(config.layers))
        self.position_bias: Optional[PositionBias] = None
        if config.positions == "bias":
            self.position_bias = PositionBias(config.layers, config.heads, config.max_distance)
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
        keys_values = zero.expand(batch, cache_frames, 2 * self.dim)
        conv = zero.expand(batch, self.conv_context, self.dim)
        layers = [LayerState(keys_values, conv) for _ in self.layers]
        return EncoderState(position, self.subsampling.init_state(batch, zero), layers)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor, chunking: Chunking, state: EncoderState) -> EncoderOutput:
        """One step over any number of whole chunks; only a row's last block may be short.

        Args:
            x_BTF: features; T a multiple of 4.
            lengths_B: valid encoder frames of each row, at most T / 4. What lies beyond changes nothing.
            chunking: who sees whom.
            state: of the previous step or fresh. After a short row its new state is of no use.
        """
        frames, cached = x_BTF.size(1) // self.factor, state.layers[0].keys_values.size(1)
        start_B1 = state.position.unsqueeze(1)
        query_BT = start_B1 + torch.arange(frames, device=x_BTF.device)
        key_BS = start_B1 + torch.arange(-cached, frames, device=x_BTF.device)
        present_BS = key_BS < (state.position + lengths_B).unsqueeze(1)
        visible_BTS = visible(query_BT, key_BS, chunking) & present_BS.unsqueeze(1)
        return self.advance(x_BTF, lengths_B, visible_BTS, key_BS, state)

    def advance(
        self, x_BTF: Tensor, lengths_B: Tensor, visible_BTS: Tensor, key_BS: Tensor, state: EncoderState
    ) -> EncoderOutput:
        """`forward` when it is known who sees whom: other runtimes bring their own mask.

        Args:
            visible_BTS: true where a query may see a key; may be broadcast over B.
            key_BS: absolute positions of the keys; may be broadcast over B.
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

        hidden_B1TS = torch.zeros_like(visible_BTS, dtype=x.dtype).masked_fill(~visible_BTS, self.masked).unsqueeze(1)
        bias_LHTS: Optional[Tensor] = None
        position_BSD: Optional[Tensor] = None
        if self.position_bias is not None:
            bias_LHTS = self.position_bias(frames, state.layers[0].keys_values.size(1) + frames)
        else:
            position_BSD = sinusoids_at(key_BS, x)

        states: List[LayerState] = []
        for i, layer in enumerate(self.layers):
            bias_BHTS = hidden_B1TS if bias_LHTS is None else hidden_B1TS + bias_LHTS[i]
            out = layer(x, valid_N, frames, bias_BHTS, position_BSD, state.layers[i])
            x = out.x_ND
            states.append(out.state)
        x_BTD = unpack(x, valid_N, batch, frames)
        return EncoderOutput(x_BTD, lengths_B, EncoderState(state.position + lengths_B, subsampled.state, states))
