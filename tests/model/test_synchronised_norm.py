"""Law: BatchNorm over ranks equals BatchNorm over the rows of all of them, forward and backward."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.model.rank_processes import run_ranks
from torch import Tensor

from wenet_fusion.model.layers.norm import MaskedBatchNorm, synchronise_statistics
from wenet_fusion.ranks import Ranks

ROWS = [[7, 3], [0, 5], [1, 12], [2, 0]]  # lengths of the rows of two ranks


def random_norm(channels: int, planes: bool) -> MaskedBatchNorm:
    norm = MaskedBatchNorm(channels, planes=planes).double()
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.normal_()
    return norm


def one_norm(ranks: Ranks, parts: list[Tensor], gradients: list[Tensor], planes: bool, momentum: float | None) -> list:
    """Return output, gradients and running statistics of one rank's part."""
    torch.manual_seed(0)
    norm = random_norm(parts[0].size(1), planes)
    synchronise_statistics(norm)
    norm.momentum = momentum
    rows = parts[ranks.rank].clone().requires_grad_()
    y = norm(rows)
    assert not norm.running_var.requires_grad and not norm.running_mean.requires_grad, "the graph would grow"
    y.backward(gradients[ranks.rank])
    return [y.detach(), rows.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]


def all_norms(ranks: Ranks, cases: list[tuple]) -> list:
    return [one_norm(ranks, *case) for case in cases]


@pytest.fixture(scope="module")
def cases() -> list[tuple]:
    torch.manual_seed(1)
    made: list[tuple] = []
    for counts in ROWS:
        for shape in ((4,), (3, 5)):
            parts = [100 + 3 * torch.randn(count, *shape, dtype=torch.float64) for count in counts]
            gradients = [torch.randn_like(part) for part in parts]
            made.append((parts, gradients, len(shape) == 2, None if counts[0] == 7 else 0.1))
    return made


def test_two_ranks_normalise_as_one(cases: list[tuple], tmp_path: Path) -> None:
    found = run_ranks(all_norms, 2, tmp_path, cases)
    for number, (parts, gradients, planes, momentum) in enumerate(cases):
        torch.manual_seed(0)
        norm = random_norm(parts[0].size(1), planes)
        rows = torch.cat(parts).requires_grad_()
        y = F.batch_norm(
            rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, momentum or 1.0, norm.eps
        )
        y.backward(torch.cat(gradients))
        own = [[rank[number][part] for rank in found] for part in range(6)]
        joined = [torch.cat(own[0]), torch.cat(own[1]), sum(own[2]), sum(own[3])]
        assert rows.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
        for mine, expected in zip(joined, (y.detach(), rows.grad, norm.weight.grad, norm.bias.grad)):
            torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)
        for mine, expected in zip(own[4:], (norm.running_mean, norm.running_var)):
            assert torch.equal(mine[0], mine[1]), "ranks must hold the same statistics, bit for bit"
            torch.testing.assert_close(mine[0], expected, rtol=1e-9, atol=1e-9)
