"""The model as a product sees it: waveform in, scores and state out. What every export and the runtime step.

Shapes: B rows, N samples, T encoder frames, D width, K top tokens, U tokens.
"""

from typing import NamedTuple, Tuple

import torch
from torch import Tensor, nn

from wenet_fusion.model.asr_model import SOS_EOS, AsrModel
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.ctc import BLANK
from wenet_fusion.model.decoder import sequence_log_probs, teacher_forcing
from wenet_fusion.model.encoder import EncoderState

TOP_TOKENS = 20  # the search sees this many tokens per frame, never the whole vocabulary


class StreamState(NamedTuple):
    """Everything a stream remembers between two steps: the front-end's remainder is state too."""

    samples: Tensor  # (B, window - hop)
    encoder: EncoderState


class StepOutput(NamedTuple):
    encoder_out: Tensor  # (B, T, D)
    lengths: Tensor  # (B,) valid frames
    top_log_probs: Tensor  # (B, T, K), descending
    top_ids: Tensor  # (B, T, K)
    blank_log_probs: Tensor  # (B, T)


class DeployedModel(nn.Module):
    """Streaming interface of a trained model, scriptable once its norms are fused.

    Shares the model's modules; build it from a copy before fusing.
    """

    def __init__(self, model: AsrModel):
        super().__init__()
        self.frame_samples = model.config.frontend.frame_samples
        self.fbank = model.fbank
        self.cmvn = model.cmvn
        self.encoder = model.encoder
        self.ctc = model.ctc
        self.decoder = model.decoder
        self.reverse_decoder = model.reverse_decoder
        self.blank, self.sos_eos = BLANK, SOS_EOS  # scripts read attributes, not module constants
        self.top_tokens = min(TOP_TOKENS, model.vocabulary_size)

    def init_state(self, batch: int, chunk: int, left: int) -> StreamState:
        """The state of `batch` streams that have heard nothing."""
        return StreamState(self.fbank.init_state(batch), self.encoder.init_state(batch, chunk * left))

    def step(
        self, samples: Tensor, lengths: Tensor, chunk: int, left: int, state: StreamState
    ) -> Tuple[StepOutput, StreamState]:
        """Advances B streams by N samples.

        Args:
            samples: (B, N) in [-1, 1]; N a multiple of frame_samples, of whole chunks except in a stream's last step.
            lengths: (B,) valid samples; the rest of a row is silence that counts up to the end of its encoder frame.
            chunk, left: chunk size in encoder frames, left context in chunks, as given to `init_state`.
            state: of the previous step. After a short row its new state is of no use.
        """
        valid = torch.arange(samples.size(1), device=samples.device).unsqueeze(0) < lengths.unsqueeze(1)
        fbank = self.fbank(samples.masked_fill(~valid, 0.0), state.samples)
        frames = (lengths + self.frame_samples - 1).div(self.frame_samples, rounding_mode="floor")
        encoded = self.encoder(self.cmvn(fbank.features_BTF), frames, Chunking(chunk, left), state.encoder)
        log_probs = self.ctc(encoded.frames_BTD)
        top_log_probs, top_ids = log_probs.topk(self.top_tokens, dim=-1)
        output = StepOutput(encoded.frames_BTD, frames, top_log_probs, top_ids, log_probs[:, :, self.blank])
        return output, StreamState(fbank.state_BW, encoded.state)

    def rescore(self, encoder_out: Tensor, hyps: Tensor, hyp_lengths: Tensor) -> Tensor:
        """Log-probabilities of whole hypotheses, end of sentence included.

        Args:
            encoder_out: (1, T, D) of one utterance.
            hyps: (B, U) without sos and eos, padded with anything.
            hyp_lengths: (B,).

        Returns:
            (B, 2): left-to-right and right-to-left decoder; 0 where the model has no such decoder.
        """
        memory_lengths = torch.full([1], encoder_out.size(1), device=encoder_out.device)
        scores = torch.zeros(hyps.size(0), 2, dtype=encoder_out.dtype, device=encoder_out.device)
        if self.decoder is not None:
            forward = teacher_forcing(hyps, hyp_lengths, self.sos_eos, reverse=False)
            logits = self.decoder(forward.inputs_BU, encoder_out, memory_lengths)
            scores[:, 0] = sequence_log_probs(logits, forward.targets_BU, forward.mask_BU)
        if self.reverse_decoder is not None:
            backward = teacher_forcing(hyps, hyp_lengths, self.sos_eos, reverse=True)
            logits = self.reverse_decoder(backward.inputs_BU, encoder_out, memory_lengths)
            scores[:, 1] = sequence_log_probs(logits, backward.targets_BU, backward.mask_BU)
        return scores
