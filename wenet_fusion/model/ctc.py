"""CTC head: encoder frames to token log-probabilities, and the loss. Knows no search."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

BLANK = 0
BLANK_PRIOR = 0.8  # share of frames without a token, roughly, in any language at 25 frames per second


class CtcHead(nn.Module):
    """(B, T, D) -> log-probabilities (B, T, V).

    It starts close to the prior. Training begins there anyway, but from random outputs it takes its first hundred
    updates to get there.
    """

    def __init__(self, dim: int, vocabulary_size: int):
        super().__init__()
        self.linear = nn.Linear(dim, vocabulary_size)
        nn.init.normal_(self.linear.weight, std=0.1 * dim**-0.5)
        nn.init.zeros_(self.linear.bias)
        nn.init.constant_(self.linear.bias[BLANK], math.log(BLANK_PRIOR / (1 - BLANK_PRIOR) * (vocabulary_size - 1)))

    def forward(self, frames_BTD: Tensor) -> Tensor:
        return self.linear(frames_BTD).log_softmax(dim=-1)


def frames_needed(tokens: Sequence[int]) -> int:
    """The fewest frames that an alignment has: one for each token, and a blank between equal ones."""
    return len(tokens) + sum(left == right for left, right in zip(tokens, tokens[1:]))


def ctc_loss(log_probs_BTV: Tensor, lengths_B: Tensor, tokens_BU: Tensor, token_lengths_B: Tensor) -> Tensor:
    """Negative log-likelihood summed over the batch, in float32 or better. Empty transcripts are legal.

    A row that is too short for its transcript has infinite loss; it counts as zero and gives no gradient.
    """
    log_probs = log_probs_BTV.transpose(0, 1)
    log_probs = log_probs if log_probs.dtype.itemsize >= 4 else log_probs.float()
    return F.ctc_loss(log_probs, tokens_BU, lengths_B, token_lengths_B, BLANK, reduction="sum", zero_infinity=True)
