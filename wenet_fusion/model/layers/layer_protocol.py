"""The protocol of every op and encoder layer: state in, next state out, and a context that all ops share.

Shapes: B utterances, T encoder frames, S = C + T keys (C cached), N packed encoder frames, L layers, H heads, D width.
"""

from typing import List, NamedTuple, Optional, Protocol, Tuple

from torch import Tensor


class StepContext(NamedTuple):
    """Values that the ops of one step share. The encoder builds one for each step."""

    frames: int  # T
    valid_N: Optional[Tensor]  # flat indices of the valid encoder frames; None: nothing is packed (inference)
    valid_half_N: Optional[Tensor]  # the same for frames between the convolutions of the subsampling, at twice the rate
    hidden_B1TS: Tensor  # added to attention scores: 0 where a query may attend to a key, MASKED elsewhere
    biases_HTS: List[Tensor]  # learned biases of relative positions, one per layer (`positions: bias`)
    position_BSD: Optional[Tensor]  # sinusoids of the keys' positions (`positions: rel_pos`)


class LayerOp(Protocol):
    """An op of the encoder, with or without memory. Whole encoder layers obey the same protocol.

    In training `x` holds packed rows, (N, D); in inference it is (B, T, D). The state is a list of tensors whose first
    axis is B; it is empty for ops without memory. A state is a value: `forward` returns the next state and leaves the
    old one unchanged.
    """

    def init_state(self, batch: int, cached: int, zero: Tensor) -> List[Tensor]:
        """Return the state before the first frame.

        Args:
            batch: B.
            cached: C, frames of left context that attention keeps.
            zero: a scalar 0 with the state's dtype and device; `zero.expand(...)` needs no memory.
        """
        ...

    def forward(self, x: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return the output, packed if `x` is packed, and the next state."""
        ...


def attention_bias(context: StepContext, layer: int) -> Tensor:
    """Return the mask and bias that a layer adds to its attention scores: (B, 1 or H, T, S)."""
    return context.hidden_B1TS + context.biases_HTS[layer] if context.biases_HTS else context.hidden_B1TS
