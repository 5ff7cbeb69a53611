"""Dropout (Srivastava et al., JMLR 15, 2014) that is cheap on CPUs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """`nn.Dropout`, faster on CPUs: it draws 16 random bits per value, not a float; p is rounded to that precision.

    >>> sorted(set(Dropout(0.5)(torch.ones(100)).tolist()))
    [0.0, 2.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x; in training, a share p of its values is 0 and the others are divided by 1 - p."""
        if not self.training or x.device.type != "cpu" or not 0.0 < self.p < 1.0:
            return F.dropout(x, self.p, self.training)
        limit = min(int(65536 * self.p + 0.5), 65535) - 32768  # lower draws are dropped
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-9223372036854775807 - 1, None)
        kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= limit
        return x * kept.to(x.dtype).mul_(65536 / (32768 - limit))
