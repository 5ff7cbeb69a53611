"""Kernels of exported models: each computes the same as the module that it replaces, up to rounding."""

import pytest
import torch
from conftest import randomise
from support.model import laws
from support.model.contexts import step_context
from torch import nn

from wenet_fusion.export.kernels.convolution_kernels import DepthwiseTaps, ProductSpectrum, UnfoldedSubsampling
from wenet_fusion.export.kernels.static_int8 import InputRange, StaticLinear, input_ranges, make_static
from wenet_fusion.model.frontend.fbank import Spectrum, spectrum_matrix
from wenet_fusion.model.layers.norm import FusedConv, fuse_norms
from wenet_fusion.model.layers.subsampling import Subsampling

pytestmark = pytest.mark.usefixtures("float32")

CLOSE = 1e-5  # between two ways to sum in float32

needs_fbgemm = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="torch has no FBGEMM on this machine"
)


def test_a_spectrum_by_products_is_the_convolution() -> None:
    source = Spectrum(spectrum_matrix(200, 256).float(), 80)
    products, x = ProductSpectrum(source), laws.noise(0, 5, 120 + 32 * 80).float()
    assert laws.difference(products(x), source(x)) < CLOSE
    assert laws.difference(products(x)[3:4], products(x[3:4])) < CLOSE
    products.matrix_CW = products.matrix_CW.roll(1, 0)
    assert laws.difference(products(x), source(x)) > laws.BROKEN


def test_depthwise_taps_equal_the_convolution() -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(6, 6, 4, groups=6)
    x = laws.noise(0, 2, 6, 9).float()
    taps = DepthwiseTaps(conv)
    assert laws.difference(taps(x, None), FusedConv(conv)(x, None)) < CLOSE
    taps.weight_KD[0] = 0.0
    assert laws.difference(taps(x, None), FusedConv(conv)(x, None)) > laws.BROKEN


@pytest.mark.parametrize("bins", [9, 40])
def test_unfolded_subsampling_equals_the_convolutions(bins: int) -> None:
    torch.manual_seed(0)
    source = fuse_norms(nn.Sequential(randomise(Subsampling(bins, 6, 3))).eval())[0]
    unfolded, state = UnfoldedSubsampling(source), source.init_state(2, 0, torch.zeros(()))
    for _ in range(2):
        x = laws.noise(0, 2, 12, bins).float()
        one, other = unfolded(x, state, step_context(3)), source(x, state, step_context(3))
        assert laws.difference(one, other) < CLOSE
        state = other[1]
    with torch.no_grad():
        unfolded.conv_2.weight.copy_(unfolded.conv_2.weight.flip(1))
    outs = [model(x, state, step_context(3))[0] for model in (unfolded, source)]
    assert laws.difference(*outs) > laws.BROKEN


@needs_fbgemm
@pytest.mark.parametrize("rows", [2, 8, 17])
def test_a_static_layer_gives_a_row_the_same_in_every_batch(rows: int) -> None:
    """It sums integers, and neighbours do not change its scale: the difference is far below a step of 1/255."""
    torch.manual_seed(0)
    x = laws.noise(0, rows, 64).float() * torch.logspace(-1, 1, rows)[:, None]
    layer = StaticLinear(nn.Linear(64, 8), False, InputRange(scale=1 / 40, zero_point=128))
    assert laws.difference(torch.cat([layer(row) for row in x.split(1)]), layer(x)) < CLOSE


@needs_fbgemm
def test_static_scales_come_from_the_calibration() -> None:
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Linear(8, 4)), laws.noise(0, 50, 8).float()
    ranges = input_ranges(layer, lambda: layer(x))
    assert 0.5 * float(x.max() - x.min()) / 255 < ranges["0"].scale <= 1.01 * float(x.max() - x.min()) / 255
    static = nn.Sequential(nn.Linear(8, 4))
    static.load_state_dict(layer.state_dict())
    make_static(static, ranges)
    assert laws.difference(static(x), layer(x)) < 0.03
    with pytest.raises(ValueError, match="calibration never used 0"):
        input_ranges(layer, lambda: None)


@needs_fbgemm
@pytest.mark.parametrize(
    "gain", [1.0, 1.4, 2.0, 30.0]
)  # no input lies between two steps, where kernels may round either way
def test_static_int8_never_overflows(gain: float) -> None:
    """Inputs beyond the calibrated range are clipped, and sums are exact, although some CPUs add in 16 bits."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 8)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.abs() + 0.5)  # all products of one sign: the largest sums there are
    expected = InputRange(scale=1 / 127, zero_point=64)
    static, x = StaticLinear(layer, False, expected), gain * torch.ones(3, 64)
    weight = static.packed._weight_bias()[0].dequantize()
    clipped = (
        torch.clamp((x / expected.scale).round() + expected.zero_point, 0, 255) - expected.zero_point
    ) * expected.scale
    assert laws.difference(static(x), clipped @ weight.t() + layer.bias) < CLOSE
