"""Learning rates and which parameters decay."""

import copy

import pytest
import torch
from torch import nn

from wenet_fusion.config import ConfigError, config_from_mapping
from wenet_fusion.model.layers.attention import RelativePositions
from wenet_fusion.model.layers.norm import MaskedBatchNorm
from wenet_fusion.training.optimisation.muon import MuonWithAdamW, orthogonalised
from wenet_fusion.training.optimisation.optim import OptimConfig, build_optimizer, learning_rate, set_learning_rate


def test_the_warm_up_is_linear_and_ends_at_the_peak():
    for decay in ("linear", "inverse_sqrt"):
        config = OptimConfig(learning_rate=0.5, warmup_steps=10, decay=decay)
        rates = [learning_rate(config, step, max_steps=100) for step in range(1, 101)]
        assert rates[:10] == pytest.approx([0.05 * step for step in range(1, 11)])
        assert max(rates) == rates[9] == 0.5
        assert sorted(rates[9:], reverse=True) == rates[9:]


def test_linear_decay_reaches_zero_one_step_after_the_last():
    config = OptimConfig(learning_rate=0.9, warmup_steps=2, decay="linear")
    rates = [learning_rate(config, step, max_steps=10) for step in range(1, 12)]
    assert rates[1:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    short = OptimConfig(learning_rate=0.9, warmup_steps=10, decay="linear")
    assert all(learning_rate(short, step, max_steps=4) > 0 for step in range(1, 5)), "a run may end in its warm-up"


def test_inverse_square_root_decay_does_not_depend_on_the_length_of_the_run():
    config = OptimConfig(learning_rate=1.0, warmup_steps=100, decay="inverse_sqrt")
    assert learning_rate(config, 400, 500) == learning_rate(config, 400, 10**6) == pytest.approx(0.5)
    assert learning_rate(config, 10_000, 10**6) == pytest.approx(0.1)


def test_cosine_decay_and_wsd():
    cosine = OptimConfig(learning_rate=1.0, warmup_steps=1, decay="cosine")
    rates = [learning_rate(cosine, step, max_steps=10) for step in range(1, 12)]
    assert rates[0] == 1.0 and rates[5] == pytest.approx(0.5) and rates[10] == pytest.approx(0.0)
    assert sorted(rates, reverse=True) == rates
    wsd = OptimConfig(learning_rate=1.0, warmup_steps=4, decay="wsd", decay_steps=4)
    rates = [learning_rate(wsd, step, max_steps=12) for step in range(1, 14)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.0])
    constant = OptimConfig(learning_rate=1.0, warmup_steps=2, decay="constant")
    assert [learning_rate(constant, step, max_steps=4) for step in range(1, 5)] == [0.5, 1, 1, 1]


def test_noam_is_inverse_square_root_decay():
    """Vaswani et al.: factor * dim^-0.5 * min(step^-0.5, step * warmup^-1.5)."""
    factor, dim, warmup = 5.0, 256, 40
    config = OptimConfig(learning_rate=factor * (dim * warmup) ** -0.5, warmup_steps=warmup)
    for step in (1, 10, 40, 41, 400):
        noam = factor * dim**-0.5 * min(step**-0.5, step * warmup**-1.5)
        assert learning_rate(config, step, max_steps=1000) == pytest.approx(noam, rel=1e-12)


def not_decayed(optimizer, model):
    """Names of the parameters without weight decay; asserts that every parameter is in one group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(names)
    return {
        names[id(parameter)]
        for group in optimizer.param_groups
        if group["weight_decay"] == 0
        for parameter in group["params"]
    }


def spared_by_design(model):
    """Norms (Batch and Layer), biases, and the table of relative positions."""
    spared = {name for name, _ in model.named_parameters() if name.endswith("bias") or "position_bias" in name}
    for module_name, module in model.named_modules():
        if isinstance(module, (MaskedBatchNorm, nn.LayerNorm)):
            spared |= {f"{module_name}.{name}" for name, _ in module.named_parameters()}
    return spared


def test_norms_biases_and_positions_do_not_decay(trained):
    optimizer = build_optimizer(OptimConfig(weight_decay=0.1), trained.model)
    assert not_decayed(optimizer, trained.model) == spared_by_design(trained.model)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1, 0.0}
    assert any("position_bias" in name for name in spared_by_design(trained.model))


def test_both_biases_of_rel_pos_do_not_decay():
    model = nn.ModuleDict({"rel_pos": RelativePositions(dim=4, heads=2)})
    optimizer = build_optimizer(OptimConfig(weight_decay=0.1), model)
    assert not_decayed(optimizer, model) == {"rel_pos.key_bias", "rel_pos.position_bias"}


def test_the_check_sees_decayed_positions(trained):
    """Seeded bug: all matrices decay, so the table of positions does too."""
    matrices = [parameter for parameter in trained.model.parameters() if parameter.dim() >= 2]
    rest = [parameter for parameter in trained.model.parameters() if parameter.dim() < 2]
    naive = torch.optim.AdamW([{"params": matrices}, {"params": rest, "weight_decay": 0}])
    assert not_decayed(naive, trained.model) != spared_by_design(trained.model)


def test_configuration_problems():
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(OptimConfig, {"learning_rate": 0, "clip_norm": -1, "warmup_steps": 0}, "c")
    fields = [problem.split(": ")[1] for problem in caught.value.problems]
    assert fields == ["learning_rate", "clip_norm", "warmup_steps"]
    for wrong in (OptimConfig(decay="wsd"), OptimConfig(decay_steps=5), OptimConfig(decay="wsd", decay_steps=-1)):
        assert wrong.problems()[0].endswith("belongs to decay: wsd, which needs 1 or more")


# ---- Muon


def muon(**changes):
    return OptimConfig(algorithm="muon", weight_decay=0.1, **changes)


def test_muon_has_the_matrices_of_layers_and_adamw_the_rest(trained):
    optimizer = build_optimizer(muon(), trained.model)
    assert not_decayed(optimizer, trained.model) == spared_by_design(trained.model)
    names = {id(parameter): name for name, parameter in trained.model.named_parameters()}
    hidden = {names[id(parameter)] for parameter in optimizer.param_groups[0]["params"]}
    assert {"encoder.subsampling.out.linear.weight", "decoder.layers.0.expand.weight"} <= hidden
    assert not [name for name in hidden if any(part in name for part in ("embedding", "ctc", "decoder.out", "table"))]
    assert len(hidden) == sum(
        parameter.dim() == 2 and any(part in name for part in (".layers.", "subsampling"))
        for name, parameter in trained.model.named_parameters()
    )


def test_an_update_of_muon_is_orthogonal_and_as_large_as_adamws():
    """Keller Jordan's rule, with the scale of Liu et al.: 0.2 sqrt(max(rows, columns)) times the rate."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"encoder": nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(32, 64)])})})
    layer = model["encoder"]["layers"][0]
    before = layer.weight.detach().clone()
    optimizer = build_optimizer(muon(muon_rate_factor=0.5), model)
    set_learning_rate(optimizer, 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.01, 0.01]
    layer(torch.randn(300, 32)).square().sum().backward()
    optimizer.step()
    update = (before * (1 - 0.005 * 0.1) - layer.weight.detach()).double() / (0.005 * 0.2 * 64**0.5)
    values = torch.linalg.svdvals(update)
    assert len(values) == 32 and values.min() > 0.3 and values.max() < 1.5
    assert float(update.square().mean().sqrt()) * 0.2 * 64**0.5 == pytest.approx(0.2, rel=0.3)


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (9, 9)])
def test_orthogonalised_changes_only_the_singular_values(shape):
    """Each one goes five times through Jordan's polynomial, whatever their common scale."""
    torch.manual_seed(1)
    matrix = torch.randn(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = left @ torch.diag(values) @ right
    for scale in (1.0, 1e-4, 1e4):
        torch.testing.assert_close(orthogonalised(scale * matrix), expected, rtol=0, atol=1e-10)


def test_updates_of_muon_are_those_of_torch_up_to_its_bfloat16():
    torch.manual_seed(2)
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(24, 16, bias=False)])})
    weight = model["layers"][0].weight
    other = weight.detach().clone().requires_grad_()
    ours = MuonWithAdamW([{"params": [weight], "muon_momentum": 0.9, "weight_decay": 0.1}], lr=0.01)
    torchs = torch.optim.Muon([other], 0.01, 0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    before = other.detach().clone()
    for _ in range(4):
        gradient = torch.randn(16, 24)
        weight.grad, other.grad = gradient.clone(), gradient
        ours.step()
        torchs.step()
    way = (other.detach() - before).norm()
    assert way > 0.1 and (weight.detach() - other.detach()).norm() < 0.03 * way


def test_a_closure_gives_muon_its_gradients():
    weight = nn.Parameter(torch.eye(3))
    optimizer = MuonWithAdamW([{"params": [weight], "muon_momentum": 0.9, "weight_decay": 0.0}], lr=0.01)

    def loss() -> torch.Tensor:
        value = weight.square().sum()
        value.backward()
        return value

    assert optimizer.step(loss).item() == 3.0 and optimizer.step(loss).item() < 3.0
    assert set(optimizer.state[weight]) == {"step", "momentum"} and weight.grad is None


def test_muon_leaves_parameters_without_a_gradient(trained):
    model = copy.deepcopy(trained.model)
    optimizer = build_optimizer(muon(), model)
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sum(value.square().sum() for value in model.decoder.parameters()).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert len(optimizer.state) == len(list(model.decoder.parameters()))


def test_a_momentum_of_one_is_refused():
    assert muon(muon_momentum=1.0).problems() == ["muon_momentum: 1.0 is not in [0, 1); 0.95 is usual"]
