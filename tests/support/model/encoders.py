"""Random encoders, and encoders in the form that laws.py expects."""

from typing import NamedTuple

import torch
from conftest import randomise
from hypothesis import strategies as st
from support.model import laws
from torch import Tensor

from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.encoder import Encoder
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.encoder_state import EncoderState


class Geometry(NamedTuple):
    config: EncoderConfig
    num_mel_bins: int
    chunking: Chunking
    seed: int


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    heads = draw(st.integers(1, 3))
    config = EncoderConfig(
        dim=heads * draw(st.integers(1, 4)),
        layers=draw(st.integers(1, 3)),
        heads=heads,
        feed_forward=draw(st.integers(1, 9)),
        conv_kernel=draw(st.integers(1, 6)),
        subsampling_channels=draw(st.integers(1, 3)),
        max_distance=draw(st.integers(1, 9)),
    )
    chunking = Chunking(draw(st.integers(1, 5)), draw(st.integers(0, 3)))
    return Geometry(config, draw(st.integers(7, 15)), chunking, draw(st.integers(0, 999)))


FIXED = Geometry(
    EncoderConfig(dim=8, layers=2, heads=2, feed_forward=12, conv_kernel=4, subsampling_channels=2, max_distance=4),
    num_mel_bins=9,
    chunking=Chunking(3, 2),
    seed=0,
)
FEATURES = 4  # feature frames per encoder frame


def build(geometry: Geometry) -> Encoder:
    torch.manual_seed(geometry.seed)
    return randomise(Encoder(geometry.config, geometry.num_mel_bins), geometry.seed).eval()


def encoder_op(encoder: Encoder, chunking: Chunking) -> laws.Op:
    """Return an encoder as an op of laws.py: its lengths count feature frames instead of encoder frames."""

    def op(x: Tensor, lengths: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        out = encoder(x, lengths // FEATURES, chunking, state)
        assert torch.equal(out.lengths_B, lengths // FEATURES)
        return out.frames_BTD, out.state

    return op


def features(geometry: Geometry, rows: int, frames: int) -> Tensor:
    return laws.noise(geometry.seed, rows, frames * FEATURES, geometry.num_mel_bins)


def states_after(encoder: Encoder, geometry: Geometry, chunks: list[int]) -> list[EncoderState]:
    """Return the states of streams after `chunks` chunks each."""
    size, left = geometry.chunking
    states = []
    for row, count in enumerate(chunks):
        state = encoder.init_state(1, size * left)
        if count:
            x = laws.noise(1000 + row, 1, count * size * FEATURES, geometry.num_mel_bins)
            state = encoder(x, torch.tensor([count * size]), geometry.chunking, state).state
        states.append(state)
    return states
