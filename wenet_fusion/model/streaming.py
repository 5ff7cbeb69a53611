"""The streaming interface of a model: waveform in, scores and state out. TorchScript files have the same methods.

States are flat lists of tensors and scores are plain tuples. With nested named tuples, every step of a loaded file
would create new Python classes, and a file that is loaded twice could not pass a state from one copy to the other.

Shapes: B rows, N samples, T encoder frames, D width, K top tokens, U tokens.
"""

from typing import List, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from wenet_fusion.model.asr_model import SOS_EOS, AsrModel
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.ctc import BLANK
from wenet_fusion.model.decoder import sequence_log_probs, teacher_forcing
from wenet_fusion.model.encoder_state import flatten, part_sizes, unflatten

TOP_TOKENS = 20  # number of best tokens per frame that a step returns

Scores = Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # the fields of StepOutput


class StepOutput(NamedTuple):
    """Names for the scores of a step: `StepOutput(*scores)`."""

    encoder_out: Tensor  # (B, T, D)
    lengths: Tensor  # (B,) valid frames
    top_log_probs: Tensor  # (B, T, K), descending
    top_ids: Tensor  # (B, T, K)
    blank_log_probs: Tensor  # (B, T)


class StreamingModel(nn.Module):
    """A model that runs step by step. TorchScript can compile it after `fuse_norms`.

    It shares its modules with `model`, so `fuse_norms` on one changes both: build it from a copy to keep the model.

    Args:
        model: the trained model.

    >>> from wenet_fusion.model.asr_model import ModelConfig
    >>> model = StreamingModel(AsrModel(ModelConfig(), vocabulary_size=10)).eval()
    >>> state = model.init_state(batch=1, chunk=4, left=1)
    >>> scores, state = model.step(torch.zeros(1, 4 * 640), torch.tensor([4 * 640]), chunk=4, left=1, state=state)
    >>> StepOutput(*scores).encoder_out.shape
    torch.Size([1, 4, 256])
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
        self.blank, self.sos_eos = BLANK, SOS_EOS  # TorchScript reads no module constants
        self.vocabulary_size = model.vocabulary_size  # the runtime compares it with meta.json
        self.top_tokens = min(TOP_TOKENS, model.vocabulary_size)
        self.state_sizes = part_sizes(model.encoder.init_state(1, 0))

    @torch.jit.export
    def init_state(self, batch: int, chunk: int, left: int) -> List[Tensor]:
        """Return the state of `batch` streams before their first sample: the front-end's, then the encoder's."""
        state = [self.fbank.init_state(batch)]
        state.extend(flatten(self.encoder.init_state(batch, chunk * left)))
        return state

    @torch.jit.export
    def step(
        self, samples: Tensor, lengths: Tensor, chunk: int, left: int, state: List[Tensor]
    ) -> Tuple[Scores, List[Tensor]]:
        """Advance B streams by N samples; return the fields of `StepOutput` and the next state.

        Args:
            samples: (B, N) in [-1, 1], whole chunks; in a stream's last step, N may be any multiple of frame_samples.
            lengths: (B,) valid samples; the rest of a row is zeroed. A partly valid encoder frame counts as valid.
            chunk, left: chunk size in encoder frames, left context in chunks, as given to `init_state`.
            state: state after the previous step. A row with fewer than N valid samples ends: discard its new state.
        """
        valid = torch.arange(samples.size(1), device=samples.device).unsqueeze(0) < lengths.unsqueeze(1)
        fbank = self.fbank(samples.masked_fill(~valid, 0.0), state[0])
        frames = (lengths + self.frame_samples - 1).div(self.frame_samples, rounding_mode="floor")
        encoder_state = unflatten(state[1:], self.state_sizes)
        encoded = self.encoder(self.cmvn(fbank.features_BTF), frames, Chunking(chunk, left), encoder_state)
        log_probs = self.ctc(encoded.frames_BTD)
        top_log_probs, top_ids = log_probs.topk(self.top_tokens, dim=-1)
        new = [fbank.state_BW]
        new.extend(flatten(encoded.state))
        return (encoded.frames_BTD, frames, top_log_probs, top_ids, log_probs[:, :, self.blank]), new

    @torch.jit.export
    def rescore(self, encoder_out: Tensor, hyps: Tensor, hyp_lengths: Tensor) -> Tensor:
        """Return log-probabilities of whole hypotheses, the end-of-sentence token included.

        Args:
            encoder_out: (1, T, D) of one utterance.
            hyps: (B, U) without sos and eos, padded with any token.
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

    @torch.jit.export
    def concat_states(self, states: List[List[Tensor]]) -> List[Tensor]:
        """Concatenate states along B. Their streams may be at different positions, but must share one chunking."""
        return [torch.cat([state[i] for state in states]) for i in range(len(states[0]))]

    @torch.jit.export
    def split_state(self, state: List[Tensor]) -> List[List[Tensor]]:
        """Return one state per row: the inverse of `concat_states`. Copies rows: a view would keep the whole batch."""
        return [[tensor[b : b + 1].clone() for tensor in state] for b in range(state[0].size(0))]
