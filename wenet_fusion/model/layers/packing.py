"""Convert between padded batches and packed rows, which hold only the valid frames.

In training, ops without memory work on packed rows. In inference nothing is packed, and the same ops work on
(B, T, ...).

Shapes: B utterances, T frames, N valid frames of a batch; axes after the frame axis stay as they are.
"""

from typing import Optional

import torch
from torch import Tensor


def frame_mask(lengths_B: Tensor, frames: int) -> Tensor:
    """Return (B, frames): true where a frame index is below its utterance's length."""
    return torch.arange(frames, device=lengths_B.device).unsqueeze(0) < lengths_B.unsqueeze(1)


def valid_frames(lengths_B: Tensor, frames: int) -> Tensor:
    """Return the flat indices (N,) of the valid frames of a padded batch, utterance after utterance."""
    return frame_mask(lengths_B, frames).flatten().nonzero().squeeze(1)


def pack(x_BT: Tensor, valid_N: Optional[Tensor]) -> Tensor:
    """Pack valid frames as rows: (B, T, ...) -> (N, ...). If valid_N is None, return the input."""
    return x_BT if valid_N is None else x_BT.flatten(0, 1).index_select(0, valid_N)


def unpack(rows: Tensor, valid_N: Optional[Tensor], batch: int, frames: int) -> Tensor:
    """Undo `pack`: (N, ...) -> (B, T, ...), zeros in the padding. If valid_N is None, return the input."""
    if valid_N is None:
        return rows
    padded = torch.zeros([batch * frames] + list(rows.shape[1:]), dtype=rows.dtype, device=rows.device)
    return padded.index_copy_(0, valid_N, rows).unflatten(0, [batch, frames])
