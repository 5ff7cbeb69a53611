"""Consistency loss between the CTC outputs for two masked views of an utterance (CR-CTC; Yao et al., arXiv 2410.05101).

Shapes: B rows (two views of each utterance), T encoder frames, V vocabulary.
"""

import torch
from torch import Tensor

from wenet_fusion.model.layers.packing import frame_mask


def consistency_loss(log_probs_BTV: Tensor, lengths_B: Tensor) -> Tensor:
    """Return half the sum over frames of KL(sg(b) || a) + KL(sg(a) || b) for views a and b; sg stops the gradient.

    Args:
        log_probs_BTV: the first views of all utterances, then their second views in the same order.
        lengths_B: valid frames of each row.

    >>> float(consistency_loss(torch.zeros(2, 3, 4).log_softmax(-1), torch.tensor([3, 2])))
    0.0
    """
    others = log_probs_BTV.detach().roll(log_probs_BTV.size(0) // 2, dims=0)
    divergence_BT = (others.exp() * (others - log_probs_BTV)).sum(dim=2)
    valid_BT = frame_mask(lengths_B, log_probs_BTV.size(1))
    return torch.where(valid_BT, divergence_BT, 0.0).sum() / 2
