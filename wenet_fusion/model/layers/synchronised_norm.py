"""Batch normalisation with statistics over all ranks: each rank holds some rows of one batch.

Shapes: N rows of this rank, C channels, F frequency bins.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class Moments(NamedTuple):
    """Mean (C,), biased variance (C,) and number of values per channel, a scalar, over all ranks."""

    mean: Tensor
    variance: Tensor
    values: Tensor


class _SynchronisedNorm(torch.autograd.Function):
    """Normalise by mean and variance over all ranks; gradients flow through both to the rows of every rank."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, eps: float, moments: Moments
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance, count = moments
        ctx.eps = eps
        ctx.save_for_backward(rows, weight, mean, variance, count)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        ctx.mark_non_differentiable(mean, unbiased)
        return F.batch_norm(rows, mean, variance, weight, bias, False, 0.0, eps), mean, unbiased

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        rows, weight, mean, variance, count = ctx.saved_tensors
        given, products, sums = _backward_with_constants(gradients[0], rows, weight, mean, variance, ctx.eps)
        everywhere = torch.stack([products, sums])
        dist.all_reduce(everywhere)
        mean_product, mean_gradient = everywhere / count
        inverse_std = (variance + ctx.eps).rsqrt()
        slope = weight * inverse_std.square() * mean_product
        offset = slope * mean - weight * inverse_std * mean_gradient
        given.addcmul_(rows, _channels(-slope, rows)).add_(_channels(offset, rows))
        return given, products, sums, None, None


def _backward_with_constants(
    gradient: Tensor, rows: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> list[Tensor]:
    """Return the gradients of rows, weight and bias as if mean and variance were constants."""
    if rows.size(0) == 0:  # torch's kernel divides by the number of rows
        return [torch.zeros_like(rows), torch.zeros_like(weight), torch.zeros_like(weight)]
    return torch.ops.aten.native_batch_norm_backward(
        gradient, rows, weight, mean, variance, None, None, False, eps, [True, True, True]
    )


def synchronised_batch_norm(
    rows: Tensor, weight: Tensor, bias: Tensor, eps: float, moments: Moments | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise the rows of this rank with statistics over all ranks. Every rank must call it, in the same order.

    Args:
        rows: (N, C) or (N, C, F). N may differ between ranks, and some ranks, but not all, may have N = 0.
        weight, bias: (C,) scale and shift. Their gradients are sums over the rows of this rank only.
        eps: added to the variance.
        moments: result of `moments_of_all_ranks` for these rows, if known, which saves a transfer.

    Returns:
        The normalised rows, and mean and unbiased variance over all ranks, (C,) each.
    """
    moments = moments_of_all_ranks(rows.detach()) if moments is None else moments
    normed, mean, variance = _SynchronisedNorm.apply(rows, weight, bias, eps, moments)
    return normed, mean, variance


def moments_of_all_ranks(rows: Tensor) -> Moments:
    """Return the moments over the rows of all ranks. Every rank must call it.

    It combines the ranks' means and squared deviations, because sums of squares would lose digits (Chan, Golub and
    LeVeque 1983, "Algorithms for computing the sample variance").
    """
    axes = _reduced_axes(rows)
    count = rows.new_full((1,), rows.numel() / rows.size(1))
    mean = rows.sum(axes) / count.clamp(min=1)
    deviations = (rows - _channels(mean, rows)).square().sum(axes)
    own = torch.cat([mean, deviations, count])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    means, deviations, counts = torch.stack(gathered).split([mean.numel(), mean.numel(), 1], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    deviations = (deviations + counts * (means - mean).square()).sum(0)
    return Moments(mean, deviations / total, total)


def _reduced_axes(rows: Tensor) -> list[int]:
    return [axis for axis in range(rows.dim()) if axis != 1]


def _channels(values: Tensor, rows: Tensor) -> Tensor:
    """Reshape (C,) values so that they broadcast over rows."""
    return values.unsqueeze(-1) if rows.dim() == 3 else values
