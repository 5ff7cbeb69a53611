"""The eight methods of a TorchScript file that WeNet's C++ runtime calls; our runtime calls others.

WeNet's runtime computes Kaldi's features and passes them chunk by chunk; our runtime passes samples. A right context of
3 makes WeNet's window exactly 4 * chunk feature frames, so WeNet passes no frame twice.

Shapes: B = 1 stream, T feature frames of F mel bins, M encoder frames of a call, C cached frames, S = C + M keys,
D width, H heads, K = D / H, L layers, R rows of a cache, W frames of a convolution's context, N hypotheses,
U tokens with sos, V vocabulary.
"""

import math
from typing import List, Tuple

import torch
from torch import Tensor, nn

from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.decoder import teacher_forcing
from wenet_fusion.model.encoder import Encoder
from wenet_fusion.model.encoder_state import EncoderState, growing_axes
from wenet_fusion.model.streaming import StreamingModel

RIGHT_CONTEXT = 3
WENET_METHODS = (
    "subsampling_rate",
    "right_context",
    "sos_symbol",
    "eos_symbol",
    "is_bidirectional_decoder",
    "forward_encoder_chunk",
    "ctc_activation",
    "forward_attention_decoder",
)


class WenetCaches(nn.Module):
    """Convert the encoder's state to the two cache tensors of WeNet's runtimes, and back.

    att_cache (R, H, C, 2K): a row for each tensor of keys and values, which grow with the cached frames; other rows
    are zero. cnn_cache (R, 1, D, W): the values of all other tensors, flattened: first of the layers, then of the
    subsampling, then zeros. R is the number of rows that these values need, and at least L.

    Args:
        encoder: an encoder, fused or not; its fresh states give the layout.

    Raises:
        ValueError: a layer caches something other than (B, C, 2D).

    >>> from wenet_fusion.model.encoder_config import EncoderConfig
    >>> caches = WenetCaches(Encoder(EncoderConfig(dim=8, layers=3, heads=2), num_mel_bins=80))
    >>> caches.empty_attention(16, torch.zeros(())).shape[1:]
    torch.Size([2, 16, 8])
    """

    layer_shapes: List[List[List[int]]]  # per layer and tensor; an empty list stands for keys and values
    subsampling_shapes: List[List[int]]

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.dim, self.heads = encoder.dim, encoder.heads
        fresh, longer = encoder.init_state(1, 1), encoder.init_state(1, 2)
        self.layer_shapes = [self._shapes(*states) for states in zip(fresh.layers, longer.layers)]
        self.subsampling_shapes = [list(tensor.shape) for tensor in fresh.subsampling]
        fixed = [shape for layer in [*self.layer_shapes, self.subsampling_shapes] for shape in layer if shape]
        numbers, self.cached = (
            sum(math.prod(shape) for shape in fixed),
            sum(layer.count([]) for layer in self.layer_shapes),
        )
        # Rows are as wide as the longest context of a layer's convolution.
        self.width = max([1, *(shape[1] for layer in self.layer_shapes for shape in layer if len(shape) == 3)])
        self.rows = max(len(self.layer_shapes), math.ceil(numbers / (self.dim * self.width)))
        self.filling = self.rows * self.dim * self.width - numbers

    def _shapes(self, fresh: List[Tensor], longer: List[Tensor]) -> List[List[int]]:
        shapes = []
        for tensor, axis in zip(fresh, growing_axes(fresh, longer)):
            if axis >= 0 and list(tensor.shape) != [1, 1, 2 * self.dim]:
                raise ValueError(
                    f"WeNet's runtimes cache (frames, {2 * self.dim}) numbers, a layer caches {list(tensor.shape[1:])}"
                    ": put keys and values of the encoder's width side by side"
                )
            shapes.append([] if axis >= 0 else list(tensor.shape))
        return shapes

    def empty_attention(self, frames: int, like: Tensor) -> Tensor:
        """Return an att_cache of zeros."""
        size = [self.rows, self.heads, frames, 2 * (self.dim // self.heads)]
        return torch.zeros(size, dtype=like.dtype, device=like.device)

    def empty_convolution(self, like: Tensor) -> Tensor:
        """Return a cnn_cache of zeros."""
        return torch.zeros([self.rows, 1, self.dim, self.width], dtype=like.dtype, device=like.device)

    def unpack(self, position_B: Tensor, att_cache: Tensor, cnn_cache: Tensor) -> EncoderState:
        """Return the state of one stream."""
        frames = att_cache.size(2)
        split = [self.cached, self.heads, frames, 2, self.dim // self.heads]
        keys_values = att_cache[: self.cached].reshape(split).permute(0, 2, 3, 1, 4)
        keys_values = keys_values.reshape([self.cached, frames, 2 * self.dim])
        numbers, start, row = cnn_cache.flatten(), 0, 0
        layers: List[List[Tensor]] = []
        for shapes in self.layer_shapes:
            tensors: List[Tensor] = []
            for shape in shapes:
                if len(shape) == 0:
                    tensors.append(keys_values[row : row + 1])
                    row += 1
                else:
                    size = product(shape)
                    tensors.append(numbers[start : start + size].view(shape))
                    start += size
            layers.append(tensors)
        subsampling: List[Tensor] = []
        for shape in self.subsampling_shapes:
            size = product(shape)
            subsampling.append(numbers[start : start + size].view(shape))
            start += size
        return EncoderState(position_B, subsampling, layers)

    def pack(self, state: EncoderState, cached: int) -> Tuple[Tensor, Tensor]:
        """Return att_cache, of `cached` frames, and cnn_cache: the inverse of `unpack`."""
        numbers: List[Tensor] = []
        keys_values: List[Tensor] = []
        for shapes, tensors in zip(self.layer_shapes, state.layers):
            for shape, tensor in zip(shapes, tensors):
                if len(shape) == 0:
                    keys_values.append(tensor)
                else:
                    numbers.append(tensor.flatten())
        numbers.extend([tensor.flatten() for tensor in state.subsampling])
        attention = self.empty_attention(cached, state.subsampling[0])
        if self.cached > 0:
            split = [self.cached, cached, 2, self.heads, self.dim // self.heads]
            rows = torch.cat(keys_values).reshape(split).permute(0, 3, 1, 2, 4)
            rows = rows.reshape([self.cached, self.heads, cached, 2 * (self.dim // self.heads)])
            attention = torch.cat([rows, attention[self.cached :]])
        numbers.append(torch.zeros([self.filling], dtype=attention.dtype, device=attention.device))
        return attention, torch.cat(numbers).view(self.rows, 1, self.dim, self.width)


def product(sizes: List[int]) -> int:
    """Return the product of sizes; scriptable, unlike `math.prod`."""
    found = 1
    for size in sizes:
        found *= size
    return found


class WenetModel(StreamingModel):
    """A `StreamingModel` that WeNet's libtorch runtime can also run. TorchScript can compile it after `fuse_norms`.

    Args:
        model: the trained model.

    >>> from wenet_fusion.model.asr_model import ModelConfig
    >>> WenetModel(AsrModel(ModelConfig(), vocabulary_size=10)).subsampling_rate()
    4
    """

    def __init__(self, model: AsrModel):
        super().__init__(model)
        self.caches = WenetCaches(model.encoder)
        self.silence = math.log(model.fbank.energy_floor)
        self.context = RIGHT_CONTEXT  # scripts read attributes, not module constants

    @torch.jit.export
    def subsampling_rate(self) -> int:
        """Return the feature frames per encoder frame."""
        return self.encoder.factor

    @torch.jit.export
    def right_context(self) -> int:
        """Return 3: WeNet's window, (chunk - 1) * 4 + 3 + 1 feature frames, then equals its shift, chunk * 4."""
        return self.context

    @torch.jit.export
    def sos_symbol(self) -> int:
        """Return the id of the token that begins a sentence."""
        return self.sos_eos

    @torch.jit.export
    def eos_symbol(self) -> int:
        """Return the id of the token that ends a sentence."""
        return self.sos_eos

    @torch.jit.export
    def is_bidirectional_decoder(self) -> bool:
        """Return true if there is a right-to-left decoder."""
        return self.reverse_decoder is not None

    @torch.jit.export
    def forward_encoder_chunk(
        self, xs: Tensor, offset: int, required_cache_size: int, att_cache: Tensor, cnn_cache: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Run one chunk of any size, which attends to itself and to all cached frames.

        Args:
            xs: (1, T, F) Kaldi's features of int16-scaled samples; T a multiple of 4 except in a stream's last call.
            offset: encoder frames of the stream so far.
            required_cache_size: frames to cache for the next call; negative: all.
            att_cache, cnn_cache: caches from the previous call; any empty tensors in the first call.

        Returns:
            (1, M, D) encoder frames, att_cache (R, H, C, 2K), cnn_cache (R, 1, D, W).
        """
        if att_cache.numel() == 0:
            att_cache = self.caches.empty_attention(0, xs)
        if cnn_cache.numel() == 0:
            cnn_cache = self.caches.empty_convolution(xs)
        cached, frames = att_cache.size(2), self.encoder_frames(xs)
        keep = cached + frames if required_cache_size < 0 else min(required_cache_size, cached + frames)
        # The encoder returns a cache of the length that it gets. To let the cache grow, prepend masked keys.
        held = max(cached, keep)
        att_cache = torch.cat([self.caches.empty_attention(held - cached, xs), att_cache], dim=2)
        key_S = torch.arange(-held, frames, device=xs.device)
        visible_S = (key_S >= -cached) & (key_S + offset >= 0)
        out, att_cache, cnn_cache = self.step_encoder(xs, offset + key_S, visible_S, att_cache, cnn_cache)
        return out, att_cache[:, :, held - keep :], cnn_cache

    @torch.jit.export
    def ctc_activation(self, xs: Tensor) -> Tensor:
        """Return the log-probabilities (1, M, V) of encoder frames (1, M, D)."""
        return self.ctc(xs)

    @torch.jit.export
    def forward_attention_decoder(
        self, hyps: Tensor, hyps_lens: Tensor, encoder_out: Tensor, reverse_weight: float
    ) -> Tuple[Tensor, Tensor]:
        """Return the log-probabilities of each next token, from both decoders.

        Args:
            hyps: (N, U) token ids that begin with sos, padded with any token.
            hyps_lens: (N,) lengths, sos included.
            encoder_out: (1, M, D) encoder frames of the utterance.
            reverse_weight: 0: skip the right-to-left decoder.

        Returns:
            (N, U, V) of the left-to-right decoder, and (N, U, V) of the right-to-left decoder for the reversed tokens.
            Zeros for a decoder that is missing or skipped.
        """
        memory_lengths = torch.full([1], encoder_out.size(1), device=encoder_out.device)
        if self.decoder is not None:
            forward = teacher_forcing(hyps[:, 1:], hyps_lens - 1, self.sos_eos, reverse=False)
            scores = self.decoder(forward.inputs_BU, encoder_out, memory_lengths).log_softmax(dim=-1)
        else:
            units = self.ctc(encoder_out[:, :1]).size(2)
            size = [hyps.size(0), hyps.size(1), units]
            scores = torch.zeros(size, dtype=encoder_out.dtype, device=encoder_out.device)
        if self.reverse_decoder is not None and reverse_weight > 0:
            backward = teacher_forcing(hyps[:, 1:], hyps_lens - 1, self.sos_eos, reverse=True)
            logits = self.reverse_decoder(backward.inputs_BU, encoder_out, memory_lengths)
            return scores, logits.log_softmax(dim=-1)
        return scores, torch.zeros_like(scores)

    def encoder_frames(self, xs: Tensor) -> int:
        """Return M for features (1, T, F); fewer than 4 feature frames at the end also count as an encoder frame."""
        return (xs.size(1) + self.encoder.factor - 1) // self.encoder.factor

    def step_encoder(
        self, xs: Tensor, key_S: Tensor, visible_S: Tensor, att_cache: Tensor, cnn_cache: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Run one step of the encoder on WeNet's caches; the caches keep their length.

        If the length of the last chunk is not a multiple of 4 feature frames, features of digital silence are appended,
        as training does at the end of every utterance.

        Args:
            xs: (1, T, F).
            key_S: absolute positions of the keys: cached frames, then new frames.
            visible_S: true for keys that all new frames may attend to.
        """
        frames = self.encoder_frames(xs)
        factor = self.encoder.factor
        silence = torch.full([1, factor - 1, xs.size(2)], self.silence, dtype=xs.dtype, device=xs.device)
        x = self.cmvn(torch.cat([xs, silence], dim=1)[:, : factor * frames])
        position = key_S[key_S.size(0) - frames :][:1]
        lengths = torch.full([1], frames, device=xs.device)
        visible_BTS = visible_S.view(1, 1, -1).expand(-1, frames, -1)
        state = self.caches.unpack(position, att_cache, cnn_cache)
        encoded = self.encoder.forward_masked(x, lengths, visible_BTS, key_S.unsqueeze(0), state)
        att_cache, cnn_cache = self.caches.pack(encoded.state, att_cache.size(2))
        return encoded.frames_BTD, att_cache, cnn_cache
