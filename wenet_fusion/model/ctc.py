"""CTC head and loss (Graves et al., ICML 2006).

Shapes: B utterances, T encoder frames, D width, U tokens, V vocabulary.
"""

import itertools
import math
import operator
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

BLANK = 0
BLANK_PRIOR = 0.8  # typical share of blank frames at 25 frames per second


class CtcHead(nn.Module):
    """Map encoder frames to token log-probabilities: (B, T, D) -> (B, T, V).

    The initial bias gives blank the probability 0.8, which training would otherwise need about 100 updates to learn.

    Args:
        dim: D.
        vocabulary_size: V.

    >>> import torch
    >>> CtcHead(dim=4, vocabulary_size=10)(torch.zeros(1, 3, 4)).shape
    torch.Size([1, 3, 10])
    """

    def __init__(self, dim: int, vocabulary_size: int):
        super().__init__()
        self.linear = nn.Linear(dim, vocabulary_size)
        nn.init.normal_(self.linear.weight, std=0.1 * dim**-0.5)
        nn.init.zeros_(self.linear.bias)
        nn.init.constant_(self.linear.bias[BLANK], math.log(BLANK_PRIOR / (1 - BLANK_PRIOR) * (vocabulary_size - 1)))

    def forward(self, frames_BTD: Tensor) -> Tensor:
        """Return log-probabilities (B, T, V)."""
        return at_least_float32(self.linear(frames_BTD)).log_softmax(dim=-1)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32, and keep other types.

    >>> import torch
    >>> at_least_float32(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x.float() if x.element_size() < 4 else x


def frames_needed(tokens: Sequence[int]) -> int:
    """Return the length of the shortest alignment: a frame per token, and a blank between equal neighbours.

    >>> frames_needed([3, 3, 4])
    4
    """
    return len(tokens) + sum(map(operator.eq, tokens, itertools.islice(tokens, 1, None)))


def ctc_loss(log_probs_BTV: Tensor, lengths_B: Tensor, tokens_BU: Tensor, token_lengths_B: Tensor) -> Tensor:
    """Return the negative log-likelihood summed over the batch, in float32 or float64. Transcripts may be empty.

    A row with too few frames for its transcript would have an infinite loss; it counts as 0, without a gradient.
    """
    log_probs = at_least_float32(log_probs_BTV.transpose(0, 1))
    return F.ctc_loss(log_probs, tokens_BU, lengths_B, token_lengths_B, BLANK, reduction="sum", zero_infinity=True)
