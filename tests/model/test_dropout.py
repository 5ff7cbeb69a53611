"""Dropout acts in every branch that has it, in training only."""

from pathlib import Path

import pytest
import torch
from conftest import tiny_recipe
from torch import Tensor, nn

from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.chunking import FULL_CONTEXT
from wenet_fusion.model.layers.dropout import Dropout

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module")
def model() -> AsrModel:
    """A tiny model with dropout in encoder and decoders, whose branches all contribute to the output."""
    torch.manual_seed(0)
    model = AsrModel(tiny_recipe(Path()).model, 13)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and not name.endswith("bias"):
                parameter.uniform_(0.5, 1.5)  # a residual branch may start with a scale of 0
    return model


def outputs(model: AsrModel, seed: int) -> Tensor:
    """Return encoder frames and logits of both decoders, as one vector, of a forward pass whose dropout has a seed."""
    generator = torch.Generator().manual_seed(7)
    samples = 0.1 * torch.randn(2, 8000, generator=generator)
    torch.manual_seed(seed)
    encoded = model.encode(samples, torch.tensor([8000, 8000]), FULL_CONTEXT)
    tokens = torch.tensor([[2, 3, 4, 5], [2, 6, 7, 8]])
    logits = [
        decoder(tokens, encoded.frames_BTD, encoded.lengths_B)
        for decoder in (model.decoder, model.reverse_decoder)
        if decoder is not None
    ]
    return torch.cat([value.flatten() for value in (encoded.frames_BTD, *logits)]).detach()


def sites(model: nn.Module) -> dict[str, nn.Dropout]:
    """Return the dropout modules by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Dropout)}


ENCODER_BRANCHES = ("feed_forward_in", "attention", "convolution", "feed_forward_out")


def test_every_branch_has_its_dropout(model: AsrModel) -> None:
    names = sites(model)
    for layer in range(len(model.encoder.layers)):
        for branch in ENCODER_BRANCHES:
            prefix = f"encoder.layers.{layer}.{branch}."
            assert any(name.startswith(prefix) and names[name].p > 0 for name in names), prefix
    for decoder in ("decoder", "reverse_decoder"):
        assert f"{decoder}.dropout" in names and f"{decoder}.layers.0.dropout" in names


SITES = sorted(sites(AsrModel(tiny_recipe(Path()).model, 13)))


@pytest.mark.parametrize("name", SITES)
def test_each_dropout_alone_changes_the_output(model: AsrModel, name: str) -> None:
    """With all other dropout off, two seeds differ: the branch passes through its dropout."""
    model.train()
    modules = sites(model)
    before = {other: module.p for other, module in modules.items()}
    try:
        for other, module in modules.items():
            module.p = 0.5 if other == name else 0.0
        assert not torch.equal(outputs(model, 1), outputs(model, 2))
        assert torch.equal(outputs(model, 1), outputs(model, 1))
        modules[name].p = 0.0
        assert torch.equal(outputs(model, 1), outputs(model, 2)), "nothing else is random"
    finally:
        for other, module in modules.items():
            module.p = before[other]


DECODER_CALLS = ["self_attention", "source_attention", "reduce", "expand"]


@pytest.mark.parametrize("branch", DECODER_CALLS)
def test_each_branch_of_a_decoder_layer_passes_through_dropout(model: AsrModel, branch: str) -> None:
    """The branches of a layer share a dropout module. All branches but one are set to 0, so only that one is random."""
    assert model.decoder is not None
    layer = model.decoder.layers[0]
    model.train()
    calls: list[Tensor] = []
    hook = layer.dropout.register_forward_pre_hook(lambda _, arguments: calls.append(arguments[0].detach()))
    produced: list[Tensor] = []
    source = getattr(layer, branch)
    listener = source.register_forward_hook(lambda _, __, output: produced.append(output.detach()))
    try:
        outputs(model, 1)
    finally:
        hook.remove()
        listener.remove()
    expected = torch.relu(produced[0]) if branch == "expand" else produced[0]
    assert any(call.shape == expected.shape and torch.equal(call, expected) for call in calls)


def test_nothing_is_dropped_in_inference(model: AsrModel) -> None:
    model.eval()
    assert torch.equal(outputs(model, 1), outputs(model, 2))


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_every_value_is_dropped_with_probability_p(p: float) -> None:
    """Four values share a 64-bit random number; the probability holds for each of the four."""
    torch.manual_seed(3)
    rows = 40_000
    dropped_R4 = (Dropout(p)(torch.ones(rows, 4)) == 0).double()
    deviation = (p * (1 - p) / rows) ** 0.5
    assert (dropped_R4.mean(0) - p).abs().max() < 5 * deviation + 2**-17
    pairs_44 = (dropped_R4 - p).T @ (dropped_R4 - p) / rows
    assert (pairs_44 - torch.diag(pairs_44.diag())).abs().max() < 5 * p * (1 - p) / rows**0.5, "they are independent"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (3, 5, 2), (0, 4)])
def test_the_other_values_and_their_gradients_are_divided_by_1_minus_p(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = torch.rand(shape).to(dtype).add_(1).requires_grad_()
    y = Dropout(0.25)(x)
    y.sum().backward()
    kept = y != 0
    torch.testing.assert_close(y, torch.where(kept, x / 0.75, 0), rtol=1e-2, atol=0)
    assert x.grad is not None and torch.equal(x.grad != 0, kept)
    torch.testing.assert_close(x.grad, kept.to(dtype) / 0.75, rtol=1e-2, atol=0)


def test_without_training_or_probability_nothing_is_dropped() -> None:
    x = torch.rand(5)
    assert torch.equal(Dropout(0.5).eval()(x), x) and torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(5))


def test_a_model_with_dropout_can_be_scripted_for_inference() -> None:
    """Benchmarks run models that are not fused as scripts."""
    scripted = [torch.jit.script(Dropout(p).eval()) for p in (0.5, 0.1)]
    assert all(torch.equal(script(torch.ones(3)), torch.ones(3)) for script in scripted)
