"""The convolution branch gives the same output for any cut, and its context is exactly kernel - 1 frames."""

import pytest
import torch
from conftest import randomise
from hypothesis import given
from hypothesis import strategies as st
from support.model import laws
from support.model.contexts import layer_op
from torch import Tensor

from wenet_fusion.model.layers.convolution import CausalConvolution

pytestmark = pytest.mark.usefixtures("float64")


def convolution(dim: int, kernel: int) -> CausalConvolution:
    torch.manual_seed(0)
    return randomise(CausalConvolution(dim, kernel, dropout=0.0, gamma=1.0)).eval()


@laws.random_geometries
@given(st.integers(1, 6), st.integers(1, 9), st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 99))
def test_split(dim: int, kernel: int, blocks: list[int], seed: int) -> None:
    cuts = [sum(blocks[: i + 1]) for i in range(len(blocks))]
    x, state = laws.noise(seed, 3, cuts[-1], dim), [torch.zeros(3, kernel - 1, dim)]
    op = layer_op(convolution(dim, kernel))
    assert laws.split(op, state, x, torch.tensor([cuts[-1]] * 3), cuts[:-1]) <= laws.BOUND


@laws.random_geometries
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 6))
def test_batch(lengths: list[int], kernel: int) -> None:
    xs = [laws.noise(seed, 1, length, 4) for seed, length in enumerate(lengths)]
    states = [[laws.noise(100 + seed, 1, kernel - 1, 4)] for seed in range(len(lengths))]
    assert laws.batch(layer_op(convolution(4, kernel)), laws.join, xs, states) <= laws.BOUND


def test_split_detects_a_context_that_is_one_frame_short() -> None:
    def spoil(old: list[Tensor], new: list[Tensor]) -> list[Tensor]:
        return [torch.cat([torch.zeros_like(new[0][:, :1]), new[0][:, 1:]], dim=1)]

    op = laws.forgetful(layer_op(convolution(8, 4)), spoil)
    x, state = laws.noise(0, 1, 12, 8), [torch.zeros(1, 3, 8)]
    assert laws.split(op, state, x, torch.tensor([12]), [6]) > laws.BROKEN


def test_a_frame_sees_kernel_minus_one_frames_back_and_none_ahead() -> None:
    op, x, state = layer_op(convolution(8, 4)), laws.noise(0, 1, 12, 8), [torch.zeros(1, 3, 8)]
    y = x.clone()
    y[:, 5] += 1.0
    changed = (op(x, torch.tensor([12]), state)[0] != op(y, torch.tensor([12]), state)[0]).any(dim=2)[0]
    assert changed.nonzero().flatten().tolist() == [5, 6, 7, 8]
