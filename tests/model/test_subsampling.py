"""Subsampling: the same output for any cut at its stride, zeros before the first frame, and its size."""

import pytest
import torch
import torch.nn.functional as F
from conftest import randomise
from hypothesis import given
from hypothesis import strategies as st
from support.model import laws
from support.model.contexts import layer_op, step_context
from torch import Tensor

from wenet_fusion.model.layers.subsampling import Subsampling

pytestmark = pytest.mark.usefixtures("float64")


def subsampling(num_mel_bins: int = 11, dim: int = 6, channels: int = 3) -> Subsampling:
    torch.manual_seed(0)
    return randomise(Subsampling(num_mel_bins, dim, channels)).eval()


@laws.random_geometries
@given(st.integers(7, 20), st.integers(1, 4), st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 99))
def test_split(num_mel_bins: int, channels: int, blocks: list[int], seed: int) -> None:
    model = subsampling(num_mel_bins, 5, channels)
    cuts = [4 * sum(blocks[: i + 1]) for i in range(len(blocks))]
    x = laws.noise(seed, 2, cuts[-1], num_mel_bins)
    state = model.init_state(2, 0, torch.zeros(()))
    assert laws.split(layer_op(model, 4), state, x, torch.tensor([cuts[-1]] * 2), cuts[:-1]) <= laws.BOUND


@pytest.mark.parametrize("forgotten", [0, 1])
def test_split_detects_one_forgotten_frame_of_context(forgotten: int) -> None:
    model, x = subsampling(), laws.noise(0, 1, 16, 11)

    def spoil(old: list[Tensor], new: list[Tensor]) -> list[Tensor]:
        return [torch.zeros_like(tensor) if i == forgotten else tensor for i, tensor in enumerate(new)]

    broken = laws.forgetful(layer_op(model, 4), spoil)
    assert laws.split(broken, model.init_state(1, 0, torch.zeros(())), x, torch.tensor([16]), [8]) > laws.BROKEN


def test_equals_two_padded_convolutions() -> None:
    """Pad each convolution by one frame of zeros in front, in plain torch."""
    model, x = subsampling(), laws.noise(0, 2, 12, 11)
    h = x.unsqueeze(1)
    for layer in (model.conv_1, model.conv_2):
        h = F.conv2d(F.pad(h, (0, 0, 1, 0)), layer.conv.weight, stride=2)
        norm = layer.norm
        h = F.relu(F.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps))
    expected = model.out(h.permute(0, 2, 1, 3).flatten(2))
    assert (
        laws.difference(model(x, model.init_state(2, 0, torch.zeros(())), step_context(3))[0], expected) <= laws.BOUND
    )


def test_too_few_mel_bins_are_refused() -> None:
    assert Subsampling(7, 4, 1).out.linear.in_features == 1
    with pytest.raises(ValueError, match="num_mel_bins 6 is too small .*use 7 or more"):
        Subsampling(6, 4, 1)
