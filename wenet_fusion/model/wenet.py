"""The eight methods that WeNet's C++ runtime calls on a TorchScript file, beside ours. Knows no file and no ONNX.

WeNet cuts features, we cut samples: its runtime computes Kaldi's features and hands them over chunk by chunk. A
right context of 3 makes its window exactly 4 * chunk feature frames, so no frame is handed over twice.

Shapes: T feature frames of F mel bins, M encoder frames of a call, C cached frames, S = C + M keys, D width, H heads,
K = D / H, L layers, R rows of a cache, W frames of a convolution's context, N hypotheses, U tokens with sos, V units.
"""

import math
from typing import List, Tuple

import torch
from torch import Tensor, nn

from wenet_fusion.model.decoder import teacher_forcing
from wenet_fusion.model.encoder import Encoder, EncoderState, LayerState
from wenet_fusion.model.exported import ExportedModel
from wenet_fusion.model.streaming import DeployedModel

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
    """Our encoder state as the two cache tensors that WeNet's runtimes carry, and back. Knows no weights.

    att_cache (R, H, C, 2K): keys, then values, of each layer; zeros in the rows beyond the layers.
    cnn_cache (R, 1, D, W): numbers in a row, in no order that would mean something to others: the convolutions' states,
    then the subsampling's, then zeros up to the last row's end. R says how many rows that takes, at least L.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        attention = encoder.layers[0].attention
        self.layers, self.dim, self.heads = len(encoder.layers), encoder.dim, attention.heads
        self.context = encoder.conv_context
        self.width = max(self.context, 1)  # a kernel of 1 has no context, but the subsampling needs a place
        self.subsampling_sizes = encoder.subsampling.state_sizes
        self.subsampling_context = encoder.subsampling.context
        numbers = self.layers * self.context * self.dim
        numbers += self.subsampling_context * sum(channels * bins for channels, bins in self.subsampling_sizes)
        self.rows = max(self.layers, math.ceil(numbers / (self.dim * self.width)))
        self.filling = self.rows * self.dim * self.width - numbers

    def empty_attention(self, frames: int, like: Tensor) -> Tensor:
        """An att_cache of zeros."""
        size = [self.rows, self.heads, frames, 2 * (self.dim // self.heads)]
        return torch.zeros(size, dtype=like.dtype, device=like.device)

    def empty_convolution(self, like: Tensor) -> Tensor:
        """A cnn_cache of zeros."""
        return torch.zeros([self.rows, 1, self.dim, self.width], dtype=like.dtype, device=like.device)

    def unpack(self, position_B: Tensor, att_cache: Tensor, cnn_cache: Tensor) -> EncoderState:
        """The state of one stream."""
        frames = att_cache.size(2)
        split = [self.layers, self.heads, frames, 2, self.dim // self.heads]
        keys_values = att_cache[: self.layers].reshape(split).permute(0, 2, 3, 1, 4)
        keys_values = keys_values.reshape([self.layers, frames, 2 * self.dim])
        numbers = cnn_cache.flatten()
        layers: List[LayerState] = []
        start, size = 0, self.context * self.dim
        for i in range(self.layers):
            conv = numbers[start : start + size].view(1, self.context, self.dim)
            layers.append(LayerState(keys_values[i : i + 1], conv))
            start += size
        subsampling: List[Tensor] = []
        for channels, bins in self.subsampling_sizes:
            size = channels * self.subsampling_context * bins
            subsampling.append(numbers[start : start + size].view(1, channels, self.subsampling_context, bins))
            start += size
        return EncoderState(position_B, subsampling, layers)

    def pack(self, state: EncoderState) -> Tuple[Tensor, Tensor]:
        """The inverse of `unpack`: att_cache and cnn_cache."""
        keys_values = torch.cat([layer.keys_values for layer in state.layers])
        frames = keys_values.size(1)
        split = [self.layers, frames, 2, self.heads, self.dim // self.heads]
        attention = keys_values.reshape(split).permute(0, 3, 1, 2, 4)
        attention = attention.reshape([self.layers, self.heads, frames, 2 * (self.dim // self.heads)])
        attention = torch.cat([attention, self.empty_attention(frames, attention)[self.layers :]])
        numbers = [layer.conv.flatten() for layer in state.layers]
        numbers.extend([tensor.flatten() for tensor in state.subsampling])
        numbers.append(torch.zeros([self.filling], dtype=attention.dtype, device=attention.device))
        return attention, torch.cat(numbers).view(self.rows, 1, self.dim, self.width)


class WenetModel(ExportedModel):
    """`ExportedModel` that WeNet's libtorch runtime can drive too. Scriptable once the model's norms are fused."""

    def __init__(self, model: DeployedModel):
        super().__init__(model)
        self.caches = WenetCaches(model.encoder)
        self.silence = math.log(model.fbank.energy_floor)
        self.context = RIGHT_CONTEXT  # scripts read attributes, not module constants

    @torch.jit.export
    def subsampling_rate(self) -> int:
        """Feature frames per encoder frame."""
        return self.model.encoder.factor

    @torch.jit.export
    def right_context(self) -> int:
        """3: WeNet's window, (chunk - 1) * 4 + right context + 1 feature frames, equals its shift, chunk * 4."""
        return self.context

    @torch.jit.export
    def sos_symbol(self) -> int:
        return self.model.sos_eos

    @torch.jit.export
    def eos_symbol(self) -> int:
        return self.model.sos_eos

    @torch.jit.export
    def is_bidirectional_decoder(self) -> bool:
        return self.model.reverse_decoder is not None

    @torch.jit.export
    def forward_encoder_chunk(
        self, xs: Tensor, offset: int, required_cache_size: int, att_cache: Tensor, cnn_cache: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """One chunk, of any size: it sees itself and all that is cached.

        Args:
            xs: (1, T, F) Kaldi's features of int16-scaled samples; T a multiple of 4 except in a stream's last call.
            offset: encoder frames of the stream so far.
            required_cache_size: frames to cache for the next call; negative: all there are.
            att_cache, cnn_cache: of the previous call, any empty tensors in the first.

        Returns:
            (1, M, D) encoder frames, att_cache (R, H, C, 2K), cnn_cache (R, 1, D, W).
        """
        if att_cache.numel() == 0:
            att_cache = self.caches.empty_attention(0, xs)
        if cnn_cache.numel() == 0:
            cnn_cache = self.caches.empty_convolution(xs)
        cached, frames = att_cache.size(2), self.encoder_frames(xs)
        keep = cached + frames if required_cache_size < 0 else min(required_cache_size, cached + frames)
        # The encoder returns as many keys as it was given: a cache that has to grow gets hidden ones in front.
        held = max(cached, keep)
        att_cache = torch.cat([self.caches.empty_attention(held - cached, xs), att_cache], dim=2)
        key_S = torch.arange(-held, frames, device=xs.device)
        visible_S = (key_S >= -cached) & (key_S + offset >= 0)
        out, att_cache, cnn_cache = self.advance(xs, offset + key_S, visible_S, att_cache, cnn_cache)
        return out, att_cache[:, :, held - keep :], cnn_cache

    @torch.jit.export
    def ctc_activation(self, xs: Tensor) -> Tensor:
        """Encoder frames (1, M, D) to log-probabilities (1, M, V)."""
        return self.model.ctc(xs)

    @torch.jit.export
    def forward_attention_decoder(
        self, hyps: Tensor, hyps_lens: Tensor, encoder_out: Tensor, reverse_weight: float
    ) -> Tuple[Tensor, Tensor]:
        """Log-probabilities of each next token under both decoders.

        Args:
            hyps: (N, U) token ids that begin with sos, padded with anything.
            hyps_lens: (N,) sos included.
            encoder_out: (1, M, D) of the utterance.
            reverse_weight: 0 spares the right-to-left decoder.

        Returns:
            Left-to-right (N, U, V), and right-to-left for the tokens in reverse. Zeros from a decoder that the model
            lacks or that was spared.
        """
        memory_lengths = torch.full([1], encoder_out.size(1), device=encoder_out.device)
        if self.model.decoder is not None:
            forward = teacher_forcing(hyps[:, 1:], hyps_lens - 1, self.model.sos_eos, reverse=False)
            scores = self.model.decoder(forward.inputs_BU, encoder_out, memory_lengths).log_softmax(dim=-1)
        else:
            units = self.model.ctc(encoder_out[:, :1]).size(2)
            size = [hyps.size(0), hyps.size(1), units]
            scores = torch.zeros(size, dtype=encoder_out.dtype, device=encoder_out.device)
        if self.model.reverse_decoder is not None and reverse_weight > 0:
            backward = teacher_forcing(hyps[:, 1:], hyps_lens - 1, self.model.sos_eos, reverse=True)
            logits = self.model.reverse_decoder(backward.inputs_BU, encoder_out, memory_lengths)
            return scores, logits.log_softmax(dim=-1)
        return scores, torch.zeros_like(scores)

    def encoder_frames(self, xs: Tensor) -> int:
        """M for features (1, T, F): what remains of a last group of 4 is a frame too."""
        return (xs.size(1) + self.model.encoder.factor - 1) // self.model.encoder.factor

    def advance(
        self, xs: Tensor, key_S: Tensor, visible_S: Tensor, att_cache: Tensor, cnn_cache: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """One step of the encoder, WeNet's caches in and out, as many cached frames as before.

        A last chunk need not be a multiple of 4 feature frames long. What is missing is digital silence, as features
        show it: every utterance ended with it in training.

        Args:
            xs: (1, T, F).
            key_S: absolute positions of cached and new frames.
            visible_S: which of them may be seen.
        """
        frames = self.encoder_frames(xs)
        factor = self.model.encoder.factor
        silence = torch.full([1, factor - 1, xs.size(2)], self.silence, dtype=xs.dtype, device=xs.device)
        x = self.model.cmvn(torch.cat([xs, silence], dim=1)[:, : factor * frames])
        position = key_S[key_S.size(0) - frames :][:1]
        lengths = torch.full([1], frames, device=xs.device)
        visible_BTS = visible_S.view(1, 1, -1).expand(-1, frames, -1)
        state = self.caches.unpack(position, att_cache, cnn_cache)
        encoded = self.model.encoder.advance(x, lengths, visible_BTS, key_S.unsqueeze(0), state)
        att_cache, cnn_cache = self.caches.pack(encoded.state)
        return encoded.frames_BTD, att_cache, cnn_cache
