"""The laws that ops with state, masks or norms obey, each stated once.

A law returns the largest relative difference it finds: at most BOUND where it holds in float64, above BROKEN for an op
that forgets one frame of context. Laws take an op as a function (x, lengths, state) -> (outputs, new state).

Shapes: B rows, N input steps of an op (samples, features or frames), T output frames; N / T is the op's stride.
"""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, settings
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from wenet_fusion.model.layers.norm import fuse_norms

BOUND = 1e-10
BROKEN = 1e-4
GARBAGE = (math.nan, math.inf, -1e30, 7.0)

Tree = Any  # a tensor, or tuples and lists of trees
Op = Callable[
    [Tensor, Tensor, Tree], tuple[Tree, Tree]
]  # x (B, N, ...), lengths (B,), state -> outputs (B, T, ...), state

random_geometries = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # the geometries are small already, and shrinking an example takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)


def split(op: Op, state: Tree, x_BN: Tensor, lengths_B: Tensor, cuts: Sequence[int]) -> float:
    """Every cut of the input gives the same outputs, and the same final state for each row without padding."""
    steps = x_BN.size(1)
    whole, whole_state = op(x_BN, lengths_B, state)
    blocks = []
    for start, end in itertools.pairwise([0, *cuts, steps]):
        out, state = op(x_BN[:, start:end], (lengths_B - start).clamp(0, end - start), state)
        blocks.append(leaves(out))
    joined = [torch.cat(parts, dim=1) for parts in zip(*blocks)]
    full_B = lengths_B == steps
    return max(
        difference(valid(joined, lengths_B, steps), valid(whole, lengths_B, steps)),
        difference(rows(state, full_B), rows(whole_state, full_B)),
    )


def batch(op: Op, join: Callable[[list[Tree]], Tree], xs: Sequence[Tensor], states: Sequence[Tree]) -> float:
    """A row of a batch gives the same as its stream alone, whatever the lengths and states of the other rows, and
    whatever values are behind the lengths.

    Args:
        op: any op.
        join: makes one state of several.
        xs: (1, N, ...) for each stream, of different lengths.
        states: one state for each stream.
    """
    steps = max(x.size(1) for x in xs)
    x_BN = torch.full((len(xs), steps, *xs[0].shape[2:]), 1e3, dtype=xs[0].dtype)
    for row, x in enumerate(xs):
        x_BN[row, : x.size(1)] = x[0]
    together, joined = op(x_BN, torch.tensor([x.size(1) for x in xs]), join(list(states)))
    worst = 0.0
    for row, (x, state) in enumerate(zip(xs, states)):
        length_1 = torch.tensor([x.size(1)])
        alone, state = op(x, length_1, state)
        mine = [out[row : row + 1, : other.size(1)] for out, other in zip(leaves(together), leaves(alone))]
        worst = max(worst, difference(mine, alone))
        if x.size(1) == steps:
            worst = max(worst, difference(rows(joined, torch.arange(len(xs)) == row), state))
    return worst


def padding(
    measure: Callable[[Tensor], Tree],
    x_BN: Tensor,
    lengths_B: Tensor,
    garbage: Sequence[float] = GARBAGE,
    more: int = 4,
) -> float:
    """Values behind a row's length change nothing that `measure` returns: valid outputs, statistics, gradients.

    Args:
        measure: computes the values that must stay the same.
        x_BN, lengths_B: input, and number of valid steps of each row.
        garbage: values to put behind the lengths.
        more: steps of padding to append, which must change nothing either.
    """
    beyond = ~mask(lengths_B, x_BN.size(1))
    clean = _filled(x_BN, beyond, 0)
    target = measure(clean)
    padded = torch.cat([clean, torch.zeros_like(x_BN[:, :1]).repeat_interleave(more, dim=1)], dim=1)
    worst = difference(measure(padded), target)
    for value in garbage:
        worst = max(worst, difference(measure(_filled(x_BN, beyond, value)), target))
    return worst


def fusion(model: nn.Module, run: Callable[[nn.Module], Tree]) -> float:
    """`run` returns the same for the fused and the unfused module, and no BatchNorm is left in the fused one."""
    fused = fuse_norms(nn.Sequential(copy.deepcopy(model).eval()).eval())[0]
    assert not any(isinstance(module, _NormBase) for module in fused.modules())
    return difference(run(fused), run(model.eval()))


def forgetful(op: Op, spoil: Callable[[Tree, Tree], Tree]) -> Op:
    """The op with a seeded bug: its new state is `spoil(old, new)`."""

    def broken(x_BN: Tensor, lengths_B: Tensor, state: Tree) -> tuple[Tree, Tree]:
        out, new = op(x_BN, lengths_B, state)
        return out, spoil(state, new)

    return broken


def difference(value: Tree, target: Tree) -> float:
    """Return the largest difference of two tensors, relative to the largest value; infinity if a shape differs.

    A tensor may be tiny, e.g. a gradient that is zero in theory and holds rounding errors only. Its difference is taken
    relative to a thousandth of the largest value of all tensors.
    """
    values, targets = ([leaf.detach().double() for leaf in leaves(tree)] for tree in (value, target))
    if [tensor.shape for tensor in values] != [tensor.shape for tensor in targets]:
        return math.inf
    sizes = [float(tensor.abs().max()) if tensor.numel() else 0.0 for tensor in targets]
    smallest, worst = max([1e-9, *(1e-3 * size for size in sizes)]), 0.0
    for one, other, size in zip(values, targets, sizes):
        if other.numel():
            ratio = float((one - other).abs().max()) / max(size, smallest)
            worst = max(worst, ratio if math.isfinite(ratio) else math.inf)
    return worst


def valid(outputs: Tree, lengths_B: Tensor, steps: int) -> list[Tensor]:
    """Return the valid frames of (B, T, ...) outputs; lengths count input steps, and a row has `steps` of these."""
    kept = []
    for out in leaves(outputs):
        stride = steps // out.size(1)
        kept.append(out[mask((lengths_B + stride - 1) // stride, out.size(1))])
    return kept


def mask(lengths_B: Tensor, steps: int) -> Tensor:
    """Return a mask (B, steps), true before a row's length."""
    return torch.stack([torch.arange(steps) < length for length in lengths_B.tolist()])


def leaves(tree: Tree) -> list[Tensor]:
    """Return the tensors of a tree, in order."""
    return [tree] if isinstance(tree, Tensor) else [leaf for part in tree for leaf in leaves(part)]


def tree_map(function: Callable[..., Tensor], *trees: Tree) -> Tree:
    """Apply `function` to corresponding tensors; return a tree with the structure of the first one."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    parts = [tree_map(function, *items) for items in zip(*trees)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def join(states: Sequence[Tree]) -> Tree:
    """Join the rows of several states into one state."""
    return tree_map(lambda *tensors: torch.cat(tensors), *states)


def rows(state: Tree, chosen_B: Tensor) -> Tree:
    """Return the chosen rows of a state."""
    return tree_map(lambda tensor: tensor[chosen_B], state)


def noise(seed: int, *shape: int) -> Tensor:
    """Gaussian noise in the default dtype."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    """Return the gradients of all parameters; zeros where the loss does not depend on a parameter."""
    parameters = list(module.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found)]


def statistics(module: nn.Module) -> list[Tensor]:
    """Return the running statistics of all norms."""
    return [buffer for name, buffer in module.named_buffers() if "running_" in name]


def _filled(x_BN: Tensor, beyond_BN: Tensor, value: float) -> Tensor:
    return x_BN.masked_fill(beyond_BN.reshape(*beyond_BN.shape, *[1] * (x_BN.dim() - 2)), value)
