"""Beam search with the attention decoder alone, over a whole utterance. Offline only; knows no CTC.

Shapes: N hypotheses of a beam, U tokens, T encoder frames, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from wenet_fusion.models.asr_model import SOS_EOS
from wenet_fusion.models.ctc import BLANK
from wenet_fusion.models.decoder import Decoder


class AttentionHypothesis(NamedTuple):
    ids: tuple[int, ...]
    score: float  # log-probability, end of sentence included


@torch.inference_mode()
def attention_search(decoder: Decoder, encoder_out_1TD: Tensor, beam_size: int = 10) -> list[AttentionHypothesis]:
    """The most probable token sequences under the left-to-right decoder, best first.

    A log-probability only falls as a hypothesis grows, so the search ends when no open hypothesis can beat the best
    closed one. A hypothesis has at most as many tokens as the encoder has frames.

    Args:
        decoder: the left-to-right decoder.
        encoder_out_1TD: one utterance; T may be 0, which gives the empty hypothesis.
        beam_size: open hypotheses kept per step, and closed ones returned.
    """
    frames = encoder_out_1TD.size(1)
    if frames == 0:
        return [AttentionHypothesis((), 0.0)]
    device = encoder_out_1TD.device
    prefixes_NU = torch.full((1, 1), SOS_EOS, dtype=torch.int64, device=device)
    scores_N = torch.zeros(1, device=device)
    closed: list[AttentionHypothesis] = []
    for _ in range(frames + 1):
        rows = prefixes_NU.size(0)
        memory_length = torch.full((1,), frames, device=device)
        logits = decoder(prefixes_NU, encoder_out_1TD, memory_length)[:, -1]
        total_NV = scores_N.unsqueeze(1) + logits.log_softmax(-1).to(scores_N.dtype)
        closed += [
            AttentionHypothesis(tuple(prefix[1:]), score)
            for prefix, score in zip(prefixes_NU.tolist(), total_NV[:, SOS_EOS].tolist())
        ]
        closed = sorted(closed, key=lambda hypothesis: -hypothesis.score)[:beam_size]
        total_NV[:, [BLANK, SOS_EOS]] = -torch.inf
        scores_N, flat_N = total_NV.flatten().topk(min(beam_size, rows * (total_NV.size(1) - 2)))
        if float(scores_N[0]) <= closed[0].score:
            break
        row_N, token_N = flat_N.div(total_NV.size(1), rounding_mode="floor"), flat_N % total_NV.size(1)
        prefixes_NU = torch.cat([prefixes_NU[row_N], token_N.unsqueeze(1)], dim=1)
    return closed
