"""CTC loss that favours alignments that emit tokens early (Yao et al., "Delay-penalized CTC", arXiv 2305.11539).

Shapes: B utterances, T encoder frames, U tokens, V vocabulary, S = 2U + 1 states: tokens, and blanks before,
between and after them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wenet_fusion.model.ctc import BLANK, at_least_float32
from wenet_fusion.model.layers.packing import frame_mask

_NEVER = -1e30  # log 0; infinity would make gradients NaN


def delay_penalised_ctc_loss(
    log_probs_BTV: Tensor, lengths_B: Tensor, tokens_BU: Tensor, token_lengths_B: Tensor, penalty: float
) -> Tensor:
    """Return the delay-penalised CTC loss, summed over the batch; with a penalty of 0 it equals `ctc_loss`.

    It is -log of the sum over alignments of p(alignment) exp(penalty * sum over tokens of ((T - 1) / 2 - t)); t is the
    first frame of the token. A frame of delay costs `penalty` per token; frames that repeat a token cost nothing.

    A row with too few frames for its transcript counts as 0, without a gradient.

    >>> log_probs = torch.zeros(1, 2, 2).log_softmax(-1)
    >>> one = torch.tensor([[1]]), torch.tensor([1])
    >>> round(float(delay_penalised_ctc_loss(log_probs, torch.tensor([2]), *one, penalty=0.0).exp()), 4)  # 4 / 3
    1.3333
    """
    log_probs = at_least_float32(log_probs_BTV)
    tokens_BU = tokens_BU.masked_fill(~frame_mask(token_lengths_B, tokens_BU.size(1)), BLANK)
    states_BS = F.pad(torch.stack([torch.full_like(tokens_BU, BLANK), tokens_BU], 2).flatten(1), (0, 1), value=BLANK)
    emitted_BTS = log_probs.gather(2, states_BS.unsqueeze(1).expand(-1, log_probs.size(1), -1))
    is_token_BS = states_BS != BLANK
    # A token may follow the previous token without a blank between them if the two differ.
    skips_BS = is_token_BS & (states_BS != F.pad(states_BS, (2, 0), value=BLANK)[:, :-2])
    middle_B = (lengths_B - 1) / 2
    scores_BS = torch.full_like(emitted_BTS[:, 0], _NEVER)
    scores_BS = torch.cat([torch.zeros_like(scores_BS[:, :1]), scores_BS[:, 1:]], dim=1)  # before the first frame
    for t in range(log_probs.size(1)):
        bonus_BS = is_token_BS * (penalty * (middle_B - t)).to(emitted_BTS.dtype).unsqueeze(1)
        previous = F.pad(scores_BS, (1, 0), value=_NEVER)[:, :-1]
        before_it = F.pad(scores_BS, (2, 0), value=_NEVER)[:, :-2].masked_fill(~skips_BS, _NEVER)
        entered = torch.logaddexp(previous, before_it) + bonus_BS
        moved = torch.logaddexp(scores_BS, entered) + emitted_BTS[:, t]
        scores_BS = torch.where((t < lengths_B).unsqueeze(1), moved, scores_BS)
    last_B1 = 2 * token_lengths_B.unsqueeze(1)
    ends = scores_BS.gather(1, last_B1), scores_BS.gather(1, (last_B1 - 1).clamp(min=0))
    ended_B1 = torch.logaddexp(ends[0], ends[1].masked_fill(last_B1 == 0, _NEVER))
    return -ended_B1.masked_fill(ended_B1 < _NEVER / 2, 0.0).sum()
