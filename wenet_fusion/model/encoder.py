"""The FusionFormer encoder: one `forward` for training, streaming and export.

Shapes: B utterances, T feature frames in inputs and encoder frames after subsampling, N packed encoder frames,
F mel bins, D width, H heads, C cached frames, S = C + T keys, L layers.
"""

import math
from typing import List, NamedTuple, Optional

import torch
from torch import Tensor, nn

from wenet_fusion.model.chunking import Chunking, visible
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.encoder_state import EncoderState, growing_axes
from wenet_fusion.model.layers.attention import MASKED
from wenet_fusion.model.layers.layer_protocol import StepContext
from wenet_fusion.model.layers.layer_types import build_layer
from wenet_fusion.model.layers.packing import frame_mask, unpack, valid_frames
from wenet_fusion.model.layers.positions.position_bias import PositionBias
from wenet_fusion.model.layers.positions.sinusoids import Sinusoids
from wenet_fusion.model.layers.subsampling import FACTOR, STRIDE, Subsampling


class EncoderOutput(NamedTuple):
    """Output of one step of the encoder."""

    frames_BTD: Tensor
    lengths_B: Tensor  # valid frames
    state: EncoderState


class Encoder(nn.Module):
    """Map features to encoder frames at a quarter of the feature rate.

    Streaming is exact: however the features are cut at chunk boundaries, the joined outputs equal those of one step.

    Args:
        config: settings of the encoder.
        num_mel_bins: F.

    >>> encoder = Encoder(EncoderConfig(dim=8, layers=1, heads=2, feed_forward=8, subsampling_channels=2), 8).eval()
    >>> features, chunking, four = torch.randn(1, 32, 8), Chunking(size=4, left=1), torch.tensor([4])
    >>> whole = encoder(features, 2 * four, chunking, encoder.init_state(1, 4))
    >>> first = encoder(features[:, :16], four, chunking, encoder.init_state(1, 4))
    >>> second = encoder(features[:, 16:], four, chunking, first.state)
    >>> torch.allclose(torch.cat([first.frames_BTD, second.frames_BTD], 1), whole.frames_BTD, atol=1e-5)
    True
    """

    zero: Tensor

    def __init__(self, config: EncoderConfig, num_mel_bins: int):
        super().__init__()
        self.factor, self.stride, self.masked = FACTOR, STRIDE, MASKED  # TorchScript reads no module constants
        self.dim, self.heads = config.dim, config.heads
        self.subsampling = Subsampling(num_mel_bins, config.dim, config.subsampling_channels, config.norm == "fusion")
        layers = [build_layer(config, layer) for layer in range(config.layers)]
        self.layers = nn.ModuleList(layers)
        # Gives fresh states their dtype and device. A weight cannot, because quantised weights have another dtype.
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        # mypy takes every attribute of a module for a tensor.
        fresh = [layers[0].init_state(1, cached, self.zero) for cached in (1, 2)]  # type: ignore[operator]
        # Index of the attention cache in a layer's state: the tensor whose axis 1 has C frames; -1: no layer has one.
        self.cache_index = next((i for i, axis in enumerate(growing_axes(*fresh)) if axis == 1), -1)
        self.position_bias: Optional[PositionBias] = None
        self.sinusoids: Optional[Sinusoids] = None
        if self.cache_index >= 0:
            if config.positions == "bias":
                self.position_bias = PositionBias(config.layers, config.heads, config.max_distance)
            else:
                self.sinusoids = Sinusoids(config.dim)

    def init_state(self, batch: int, cache_frames: int) -> EncoderState:
        """Return the state before the first frame.

        Args:
            batch: B.
            cache_frames: C, which stays the same in all steps. Streaming needs chunk size x left context; for training
                and other single steps, 0 is enough.
        """
        position = torch.zeros(batch, dtype=torch.int64, device=self.zero.device)
        # mypy takes every attribute of a module for a tensor.
        layers = [layer.init_state(batch, cache_frames, self.zero) for layer in self.layers]  # type: ignore[operator]
        return EncoderState(position, self.subsampling.init_state(batch, cache_frames, self.zero), layers)

    def cached_frames(self, state: EncoderState) -> int:
        """Return C, the number of cached frames in a state."""
        return state.layers[0][self.cache_index].size(1) if self.cache_index >= 0 else 0

    def forward(self, x_BTF: Tensor, lengths_B: Tensor, chunking: Chunking, state: EncoderState) -> EncoderOutput:
        """Run one step over any number of whole chunks; only the last step of a row may end within a chunk.

        Args:
            x_BTF: features; T a multiple of 4.
            lengths_B: valid encoder frames of each row, at most T / 4. Features after them have no effect.
            chunking: chunk size and left context of attention.
            state: from the previous step, or fresh. Discard the new state of a row that is shorter than the step.
        """
        frames, cached = x_BTF.size(1) // self.factor, self.cached_frames(state)
        start_B1 = state.position.unsqueeze(1)
        query_BT = start_B1 + torch.arange(frames, device=x_BTF.device)
        key_BS = start_B1 + torch.arange(-cached, frames, device=x_BTF.device)
        present_BS = key_BS < (state.position + lengths_B).unsqueeze(1)
        visible_BTS = visible(query_BT, key_BS, chunking) & present_BS.unsqueeze(1)
        return self.forward_masked(x_BTF, lengths_B, visible_BTS, key_BS, state)

    def forward_masked(
        self, x_BTF: Tensor, lengths_B: Tensor, visible_BTS: Tensor, key_BS: Tensor, state: EncoderState
    ) -> EncoderOutput:
        """Run `forward` with a given attention mask; ONNX files and WeNet's runtimes compute the mask in other ways.

        Args:
            x_BTF, lengths_B, state: see `forward`.
            visible_BTS: true where a query may see a key; may be broadcast over B.
            key_BS: absolute positions of the keys; may be broadcast over B.
        """
        batch, frames = x_BTF.size(0), x_BTF.size(1) // self.factor
        # Values after a row's end may be NaN, and NaN x 0 is NaN: overwrite them before any op reads them.
        x_BTF = x_BTF.masked_fill(~frame_mask(lengths_B * self.factor, x_BTF.size(1)).unsqueeze(2), 0.0)
        context = self._context(x_BTF, lengths_B, visible_BTS, key_BS)
        x, subsampling = self.subsampling(x_BTF, state.subsampling, context)
        if self.sinusoids is not None:  # the scale of WeNet's positional encoding
            x = x * math.sqrt(self.dim)
        layers: List[List[Tensor]] = []
        for i, layer in enumerate(self.layers):
            x, layer_state = layer(x, state.layers[i], context)
            layers.append(layer_state)
        x_BTD = unpack(x, context.valid_N, batch, frames)
        return EncoderOutput(x_BTD, lengths_B, EncoderState(state.position + lengths_B, subsampling, layers))

    def _context(self, x_BTF: Tensor, lengths_B: Tensor, visible_BTS: Tensor, key_BS: Tensor) -> StepContext:
        frames = x_BTF.size(1) // self.factor
        # Packing keeps padding out of batch statistics; inference uses no batch statistics and needs no packing.
        valid_N: Optional[Tensor] = None
        valid_half_N: Optional[Tensor] = None
        if self.training:
            valid_half_N = valid_frames(lengths_B * self.stride, frames * self.stride)
            valid_N = valid_frames(lengths_B, frames)
        hidden_BTS = torch.zeros_like(visible_BTS, dtype=x_BTF.dtype).masked_fill(~visible_BTS, self.masked)
        biases_HTS: List[Tensor] = []
        position_BSD: Optional[Tensor] = None
        if self.position_bias is not None:
            biases_HTS = list(self.position_bias(frames, visible_BTS.size(2)).unbind(0))
        if self.sinusoids is not None:
            position_BSD = self.sinusoids(key_BS, x_BTF)
        return StepContext(frames, valid_N, valid_half_N, hidden_BTS.unsqueeze(1), biases_HTS, position_BSD)
