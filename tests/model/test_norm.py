"""Norms: statistics of valid frames only, re-estimation, freezing, and folding into the layers before them."""

import copy
from collections.abc import Callable

import pytest
import torch
from conftest import randomise
from hypothesis import given
from hypothesis import strategies as st
from support.model import laws
from torch import Tensor, nn

from wenet_fusion.model.layers import norm as norm_module
from wenet_fusion.model.layers.norm import (
    MOMENTUM,
    ConvNorm,
    LinearNorm,
    MaskedBatchNorm,
    estimating_statistics,
    freeze_statistics,
    fuse_norms,
)
from wenet_fusion.model.layers.packing import frame_mask, pack, unpack, valid_frames

pytestmark = pytest.mark.usefixtures("float64")

lengths = st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(lambda found: sum(found) >= 2)


def conv_1d(channels: int) -> ConvNorm:
    return ConvNorm(nn.Conv1d(channels, channels, 3, groups=channels, bias=False))


def conv_2d(channels: int) -> ConvNorm:
    return ConvNorm(nn.Conv2d(channels, 3, 3, bias=False))


# --- packing


@laws.random_geometries
@given(lengths, st.integers(0, 3))
def test_packing_keeps_valid_frames_in_order(found: list[int], spare: int) -> None:
    frames = max(found) + spare
    x = laws.noise(0, len(found), frames, 2)
    rows = pack(x, valid_frames(torch.tensor(found), frames))
    assert torch.equal(rows, torch.cat([x[b, :length] for b, length in enumerate(found)]))
    padded = unpack(rows, valid_frames(torch.tensor(found), frames), len(found), frames)
    assert torch.equal(padded, x * laws.mask(torch.tensor(found), frames).unsqueeze(2))
    assert torch.equal(frame_mask(torch.tensor(found), frames), laws.mask(torch.tensor(found), frames))
    assert torch.equal(unpack(pack(x, None), None, len(found), frames), x)


# --- statistics


def run_linear(layer: LinearNorm, x_BTC: Tensor, lengths_B: Tensor) -> Tensor:
    return layer(pack(x_BTC, valid_frames(lengths_B, x_BTC.size(1))))


def run_conv(layer: ConvNorm, x_BTC: Tensor, lengths_B: Tensor) -> Tensor:
    """Run a convolution on (B, T, C) or (B, T, C, F) frames that follow two frames of silence."""
    context = x_BTC.new_zeros(x_BTC.size(0), 2, *x_BTC.shape[2:])
    return layer(torch.cat([context, x_BTC], dim=1).transpose(1, 2), valid_frames(lengths_B, x_BTC.size(1)))


CASES = {
    "linear": (lambda: LinearNorm(4, 6), run_linear, (4,)),
    "scaled": (lambda: LinearNorm(4, 6, gamma=0.7, scale=torch.arange(6.0)), run_linear, (4,)),
    "conv1d": (lambda: conv_1d(4), run_conv, (4,)),
    "conv2d": (lambda: conv_2d(4), run_conv, (4, 5)),
}
cases = pytest.mark.parametrize("name", list(CASES))


def training_measure(
    build: Callable[[], nn.Module], run: Callable[..., Tensor], lengths_B: Tensor, with_gradients: bool
) -> Callable[[Tensor], laws.Tree]:
    torch.manual_seed(0)
    model = randomise(build())

    def measure(x: Tensor) -> laws.Tree:
        layer = copy.deepcopy(model).train()
        out = run(layer, x, lengths_B)
        found = laws.gradients(out.square().sum(), layer) if with_gradients else []
        return [out.detach(), *laws.statistics(layer), *found]

    return measure


@cases
def test_padding_moves_no_output_and_no_statistic(name: str) -> None:
    build, run, inner = CASES[name]
    lengths_B = torch.tensor([5, 0, 3])
    # NaN times 0 is NaN in a convolution's gradient; the encoder's law shows that callers reset padding to zero.
    measure = training_measure(build, run, lengths_B, with_gradients=run is run_linear)
    assert laws.padding(measure, laws.noise(1, 3, 6, *inner), lengths_B) <= laws.BOUND


@cases
def test_padding_law_detects_a_norm_that_forgets_the_mask(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, run, inner = CASES[name]
    lengths_B = torch.tensor([5, 0, 3])
    measure = training_measure(build, run, lengths_B, with_gradients=False)
    monkeypatch.setitem(globals(), "valid_frames", lambda lengths_B, frames: None)
    assert laws.padding(measure, laws.noise(1, 3, 6, *inner), lengths_B, garbage=[7.0]) > laws.BROKEN


def before_norm(layer: nn.Module, x_1TC: Tensor) -> Tensor:
    """Return the input of the norm for one utterance: (T, C') or (T, C', F')."""
    if isinstance(layer, LinearNorm):
        return layer.linear(x_1TC[0])
    context = x_1TC.new_zeros(1, 2, *x_1TC.shape[2:])
    return layer.conv(torch.cat([context, x_1TC], dim=1).transpose(1, 2)).transpose(1, 2)[0]


@cases
@laws.random_geometries
@given(found=lengths, seed=st.integers(0, 99))
def test_statistics_are_those_of_the_valid_frames(name: str, found: list[int], seed: int) -> None:
    build, run, inner = CASES[name]
    torch.manual_seed(seed)
    layer, x = randomise(build()).train(), laws.noise(seed, len(found), max(found) + 1, *inner)
    plain = nn.BatchNorm1d(layer.norm.num_features, momentum=MOMENTUM).train()
    plain.load_state_dict(layer.norm.state_dict())
    rows = torch.cat([before_norm(layer, x[b : b + 1, :length]) for b, length in enumerate(found) if length])
    expected = plain(rows) * (1.0 if getattr(layer, "scale", None) is None else layer.scale)
    assert laws.difference(run(layer, x, torch.tensor(found)), expected) <= laws.BOUND
    assert laws.difference(laws.statistics(layer), laws.statistics(plain)) <= laws.BOUND


def test_statistics_stay_in_float32_under_autocast() -> None:
    norm = MaskedBatchNorm(4).float().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm(laws.noise(0, 50, 4).to(torch.bfloat16))
    assert out.dtype == norm.running_mean.dtype == torch.float32


def two_norms() -> nn.Module:
    torch.manual_seed(0)
    return randomise(nn.Sequential(LinearNorm(4, 6), nn.Dropout(0.5), nn.ReLU(), LinearNorm(6, 3)))


def test_estimating_statistics_gives_the_plain_average_over_batches() -> None:
    model, batches = two_norms().train(), [laws.noise(seed, 5 + seed, 4) for seed in range(3)]
    freeze_statistics(model)
    weights = [parameter.clone() for parameter in model.parameters()]
    for estimated in ([7 * batches[0]], batches):  # the second estimate does not depend on the first
        with torch.no_grad(), estimating_statistics(model):
            for batch in estimated:
                model(batch)
    first = model[0]
    seen = [first.linear(batch) for batch in batches]
    assert laws.difference(first.norm.running_mean, sum(rows.mean(0) for rows in seen) / 3) <= laws.BOUND
    assert laws.difference(first.norm.running_var, sum(rows.var(0) for rows in seen) / 3) <= laws.BOUND
    # Dropout was off: the second norm's input is the first norm's output after a ReLU.
    hidden = [
        torch.relu(nn.functional.batch_norm(r, None, None, first.norm.weight, first.norm.bias, training=True))
        for r in seen
    ]
    second = model[3]
    assert laws.difference(second.norm.running_mean, sum(second.linear(h).mean(0) for h in hidden) / 3) <= laws.BOUND
    assert all(torch.equal(*pair) for pair in zip(weights, model.parameters()))
    assert all(norm.momentum == MOMENTUM and norm.frozen for norm in norm_module.norms(model))
    assert model.training and model[1].training


def test_estimating_statistics_restores_the_mode_after_an_error() -> None:
    model = two_norms().eval()
    with pytest.raises(RuntimeError), estimating_statistics(model):
        raise RuntimeError("no batch")
    assert not any(module.training for module in model.modules())
    assert all(norm.momentum == MOMENTUM and not norm.frozen for norm in norm_module.norms(model))


def test_frozen_statistics_are_constants() -> None:
    model, x = two_norms().train(), laws.noise(0, 20, 4)
    model[1].eval()
    freeze_statistics(model)
    before = copy.deepcopy(laws.statistics(model))
    trained_out = model(x)
    assert all(torch.equal(*pair) for pair in zip(before, laws.statistics(model)))
    assert laws.difference(trained_out, model.eval()(x)) <= laws.BOUND
    freeze_statistics(model, frozen=False)
    model.train()(x)
    assert not torch.equal(before[0], laws.statistics(model)[0])


# --- fusion


FUSED = {
    "linear": (lambda: LinearNorm(4, 6), lambda layer: layer(laws.noise(0, 9, 4))),
    "one scale": (lambda: LinearNorm(4, 6, scale=torch.tensor(0.5)), lambda layer: layer(laws.noise(0, 9, 4))),
    "scale per channel": (lambda: LinearNorm(4, 6, scale=torch.arange(6.0)), lambda layer: layer(laws.noise(0, 9, 4))),
    "conv1d": (lambda: conv_1d(4), lambda layer: layer(laws.noise(0, 2, 4, 9), torch.tensor([0, 2, 9]))),
    "conv2d": (lambda: conv_2d(4), lambda layer: layer(laws.noise(0, 2, 4, 9, 5), None)),
}


@pytest.mark.parametrize("name", list(FUSED))
@laws.random_geometries
@given(seed=st.integers(0, 99))
def test_fused_equals_unfused(name: str, seed: int) -> None:
    build, run = FUSED[name]
    torch.manual_seed(seed)
    assert laws.fusion(randomise(build(), seed), run) <= laws.BOUND


@pytest.mark.parametrize("name", ["one scale", "scale per channel"])
def test_fusion_law_detects_a_scale_that_is_not_folded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, run = FUSED[name]
    torch.manual_seed(0)
    model = randomise(build())
    monkeypatch.setattr(LinearNorm, "fused", lambda self: norm_module.fuse_linear_bn_eval(self.linear, self.norm))
    assert laws.fusion(model, run) > laws.BROKEN


def test_fusion_law_detects_a_forgotten_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    build, run = FUSED["conv1d"]
    model, fuse = randomise(build()), norm_module.fuse_conv_bn_eval

    def broken(conv: nn.Module, norm: nn.Module) -> nn.Module:
        norm.running_mean.zero_()
        return fuse(conv, norm)

    monkeypatch.setattr(norm_module, "fuse_conv_bn_eval", broken)
    assert laws.fusion(model, run) > laws.BROKEN


def test_fuse_norms_refuses_a_model_in_training() -> None:
    with pytest.raises(ValueError, match=r"in eval mode.*call model\.eval\(\)"):
        fuse_norms(two_norms().train())


@pytest.mark.parametrize("left", [nn.BatchNorm1d(4), MaskedBatchNorm(4), nn.InstanceNorm1d(4), nn.SyncBatchNorm(4)])
def test_fuse_norms_names_a_norm_that_it_cannot_fold(left: nn.Module) -> None:
    model = nn.ModuleDict({"good": LinearNorm(4, 4), "branch": nn.ModuleDict({"bad": left})}).eval()
    with pytest.raises(ValueError, match=r"cannot fold branch\.bad: put the norm into a LinearNorm or a ConvNorm"):
        fuse_norms(model)
