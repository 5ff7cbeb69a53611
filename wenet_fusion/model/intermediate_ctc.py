"""Collect the outputs of chosen encoder layers for intermediate CTC losses (Lee and Watanabe, arXiv 2102.03216).

Shapes: B utterances, T encoder frames, N packed encoder frames, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from wenet_fusion.model.encoder import Encoder, EncoderOutput
from wenet_fusion.model.layers.packing import unpack, valid_frames


@contextmanager
def collecting_layers(encoder: Encoder, layers: Sequence[int]) -> Iterator[list[Tensor]]:
    """Collect the outputs of encoder layers while the context is open: packed rows (N, D) in training.

    Hooks collect the outputs, so the code of `Encoder.forward`, which is exported, needs no change.

    Args:
        encoder: run it within the context.
        layers: numbers of the layers; 1 is the first.
    """
    outputs: list[Tensor] = []

    def collect(module: nn.Module, inputs: object, output: tuple[Tensor, list[Tensor]]) -> None:
        outputs.append(output[0])

    hooks = [encoder.layers[layer - 1].register_forward_hook(collect) for layer in sorted(layers)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def unpacked(rows_ND: Tensor, encoded: EncoderOutput) -> Tensor:
    """Return a collected output as (B, T, D), with zeros in the padding if it was packed; `encoded` has the lengths."""
    batch, frames = encoded.frames_BTD.size(0), encoded.frames_BTD.size(1)
    return unpack(rows_ND, valid_frames(encoded.lengths_B, frames) if rows_ND.dim() == 2 else None, batch, frames)
