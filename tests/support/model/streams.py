"""Streaming models and exported files in the form that laws.py expects, and audio for them."""

import numpy as np
import torch
from support.model import laws
from torch import Tensor, nn

from wenet_fusion.export.verification import generated_audio
from wenet_fusion.model.chunking import Chunking

FRAME = 320  # samples per encoder frame of the tiny model


def step_op(model: nn.Module, chunking: Chunking, with_ids: bool = True) -> laws.Op:
    """Return `step` under one chunking as an op from samples (B, N) to all scores. A last block may end within a frame.

    `with_ids=False` leaves out the ids of the best tokens, for comparisons up to rounding: tokens that are nearly equal
    may change places.
    """

    def op(x: Tensor, lengths: Tensor, state: laws.Tree) -> tuple[list[Tensor], laws.Tree]:
        padded = nn.functional.pad(x, (0, -x.size(1) % FRAME))
        out, new = model.step(padded, lengths, *chunking, state)
        encoder_out, frames, *scores = out
        assert torch.equal(frames, (lengths + FRAME - 1) // FRAME)
        kept = [values for values in scores if with_ids or values.is_floating_point()]
        return [encoder_out, *kept], new

    return op


def samples(seed: int, rows: int, count: int) -> Tensor:
    """Noise as loud as speech, (rows, count) in float64."""
    return 0.1 * laws.noise(seed, rows, count).double()


def states_after(model: nn.Module, chunking: Chunking, chunks: list[int]) -> list[laws.Tree]:
    """Return the states of streams after `chunks` chunks each."""
    states = []
    for row, count in enumerate(chunks):
        state = model.init_state(1, *chunking)
        if count:
            length = count * chunking.size * FRAME
            state = model.step(samples(100 + row, 1, length), torch.tensor([length]), *chunking, state)[1]
        states.append(state)
    return states


def audio(seconds: float = 3.3) -> np.ndarray:
    """Sweeps, noise and silence at the tiny model's rate."""
    return generated_audio(8000, np.random.default_rng(1))[: int(seconds * 8000)]
