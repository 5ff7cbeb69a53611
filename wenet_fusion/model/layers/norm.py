"""BatchNorm after every linear and convolution layer, and its folding into their weights (FusionFormer).

Shapes: B utterances, T frames, N valid frames of a batch, C channels, F frequency bins.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from wenet_fusion.model.layers.packing import pack
from wenet_fusion.model.layers.synchronised_norm import Moments, moments_of_all_ranks, synchronised_batch_norm

# Speech batches are small and correlated: a running average slower than torch's (0.1) keeps the statistics stable.
MOMENTUM = 0.05

# Where the encoder has norms. "fusion": a BatchNorm after every linear and convolution layer; export folds them all.
# FusionFormer's paper compares "fusion" with LayerNorm ("layer") or BatchNorm ("batch") before branches, and no norm.
NormKind = Literal["fusion", "layer", "batch", "none"]


class MaskedBatchNorm(nn.BatchNorm1d):
    """BatchNorm over the valid frames of a batch, packed as rows (N, C) or (N, C, F), so that statistics omit padding.

    In inference rows may also be (B, T, C) or (B, T, C, F), padding included. Statistics are float32 or better, also
    under autocast. Ioffe and Szegedy, arXiv 1502.03167.

    Args:
        num_features: C.
        gamma: initial scale.
        planes: true if rows have an axis F after C.

    >>> MaskedBatchNorm(4)(torch.randn(10, 4)).mean().abs() < 1e-6
    tensor(True)
    """

    def __init__(self, num_features: int, gamma: float = 1.0, planes: bool = False):
        super().__init__(num_features, momentum=MOMENTUM)
        nn.init.constant_(self.weight, gamma)
        self.planes = planes
        self.frozen = False  # true: training uses the running statistics, as inference does
        self.recomputing = False  # true: a second pass over the same rows, which leaves the running statistics alone

    def forward(self, rows: Tensor, scale: Optional[Tensor] = None) -> Tensor:
        """Return the normalised rows, times the scale if given; scaling gamma and beta costs less than scaling rows."""
        use_batch = self.training and not self.frozen
        momentum = self.momentum
        if self.recomputing:
            momentum = 0.0
        if use_batch and momentum is None:  # average over all batches, see `estimating_statistics`
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            momentum = 1.0 / float(self.num_batches_tracked)
        with torch.autocast(rows.device.type, enabled=False):
            rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
            flat = rows.flatten(0, rows.dim() - (3 if self.planes else 2))
            gamma, beta = (self.weight, self.bias) if scale is None else (self.weight * scale, self.bias * scale)
            return self._normed(flat, gamma, beta, use_batch, momentum or 0.0).view_as(rows)

    def _normed(self, rows: Tensor, gamma: Tensor, beta: Tensor, use_batch: bool, momentum: float) -> Tensor:
        return F.batch_norm(rows, self.running_mean, self.running_var, gamma, beta, use_batch, momentum, self.eps)


class SynchronisedBatchNorm(MaskedBatchNorm):
    """A `MaskedBatchNorm` that in training computes its statistics over the rows of all ranks.

    >>> SynchronisedBatchNorm(4).eval()(torch.zeros(10, 4)).shape
    torch.Size([10, 4])
    """

    _moments: Moments

    def _normed(self, rows: Tensor, gamma: Tensor, beta: Tensor, use_batch: bool, momentum: float) -> Tensor:
        if not use_batch:
            return super()._normed(rows, gamma, beta, use_batch, momentum)
        moments = self._moments if self.recomputing else moments_of_all_ranks(rows.detach())
        self._moments = moments  # for a second pass over the same rows
        normed, mean, variance = synchronised_batch_norm(rows, gamma, beta, self.eps, moments)
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            assert running is not None
            running.lerp_(value.to(running.dtype), momentum)
        return normed


class LinearNorm(nn.Module):
    """Linear layer, BatchNorm, constant scale, over rows: (N, C_in) -> (N, C_out).

    Args:
        in_features, out_features: widths.
        gamma: initial value of the norm's scale; 0 makes a residual branch start as the identity.
        scale: constant factor on the output, one number per output channel or one for all; folded by `fuse_norms`.
        batch_norm: false omits the norm, for comparisons; then the linear layer has a bias.

    >>> fuse_norms(nn.Sequential(LinearNorm(4, 8)).eval())
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
    )
    """

    scale: Optional[Tensor]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        gamma: float = 1.0,
        scale: Optional[Tensor] = None,
        batch_norm: bool = True,
    ):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=not batch_norm)  # the norm's beta is the bias
        self.norm = MaskedBatchNorm(out_features, gamma) if batch_norm else None
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, rows_NC: Tensor) -> Tensor:
        """Return (N, C_out)."""
        y_NC = self.linear(rows_NC)
        if self.norm is not None:
            return self.norm(y_NC, self.scale)
        return y_NC if self.scale is None else y_NC * self.scale

    def fused(self) -> nn.Linear:
        """Return a linear layer that computes the same in inference."""
        layer = copy.deepcopy(self.linear) if self.norm is None else fuse_linear_bn_eval(self.linear, self.norm)
        if self.scale is not None:
            with torch.no_grad():
                layer.weight.mul_(self.scale.expand(layer.out_features).unsqueeze(1))
                layer.bias.mul_(self.scale)
        return layer


class ConvNorm(nn.Module):
    """Convolution, BatchNorm: (B, C, T) or (B, C, T, F) in, rows (N, C') or (N, C', F') out.

    The convolution does not pad in time: the caller prepends the past frames from its state.

    Args:
        conv: `nn.Conv1d` or `nn.Conv2d`, without bias if batch_norm.
        batch_norm: false omits the norm, for comparisons.

    >>> ConvNorm(nn.Conv1d(4, 4, 3, bias=False)).eval()(torch.zeros(1, 4, 10), None).shape
    torch.Size([1, 8, 4])
    """

    def __init__(self, conv: Union[nn.Conv1d, nn.Conv2d], batch_norm: bool = True):
        super().__init__()
        self.conv = conv
        self.norm = MaskedBatchNorm(conv.out_channels, planes=isinstance(conv, nn.Conv2d)) if batch_norm else None

    def forward(self, x: Tensor, valid_N: Optional[Tensor]) -> Tensor:
        """Return packed rows; valid_N are the valid frames of the output."""
        rows = pack(self.conv(x).transpose(1, 2), valid_N)
        return rows if self.norm is None else self.norm(rows)

    def fused(self) -> "FusedConv":
        """Return a convolution that computes the same in inference."""
        return FusedConv(copy.deepcopy(self.conv) if self.norm is None else fuse_conv_bn_eval(self.conv, self.norm))


class FusedConv(nn.Module):
    """A `ConvNorm` with its norm folded: a convolution and the packing of its output.

    >>> FusedConv(nn.Conv1d(4, 4, 3))(torch.zeros(1, 4, 10), None).shape
    torch.Size([1, 8, 4])
    """

    def __init__(self, conv: Union[nn.Conv1d, nn.Conv2d]):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, valid_N: Optional[Tensor]) -> Tensor:
        """Return packed rows; valid_N are the valid frames of the output."""
        return pack(self.conv(x).transpose(1, 2), valid_N)


def branch_norm(kind: NormKind, dim: int) -> nn.Module:
    """Return a LayerNorm ("layer") or BatchNorm ("batch") over dim channels; the identity for "fusion" and "none"."""
    if kind == "layer":
        return nn.LayerNorm(dim)
    return MaskedBatchNorm(dim) if kind == "batch" else nn.Identity()


def fuse_norms(model: nn.Module) -> nn.Module:
    """Fold every BatchNorm below `model` into the layer before it, in place, and return the model.

    W' = W gamma / sigma and b' = beta + (b - mean) gamma / sigma.

    Raises:
        ValueError: the model is in training mode, or a BatchNorm cannot be folded; the message names it.
    """
    if model.training:
        raise ValueError(
            "fuse_norms needs the model in eval mode, because statistics change in training; call model.eval()"
        )
    for module in list(model.modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, (LinearNorm, ConvNorm)):
                setattr(module, child_name, child.fused())
    left = [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    if left:
        raise ValueError(f"fuse_norms cannot fold {', '.join(left)}: put the norm into a LinearNorm or a ConvNorm")
    return model


def norms(model: nn.Module) -> list[MaskedBatchNorm]:
    """Return the BatchNorms below `model`."""
    return [module for module in model.modules() if isinstance(module, MaskedBatchNorm)]


def freeze_statistics(model: nn.Module, frozen: bool = True) -> None:
    """Make training use the running statistics as constants, or the batch statistics again (frozen=False)."""
    for norm in norms(model):
        norm.frozen = frozen


def synchronise_statistics(model: nn.Module) -> None:
    """Make training use statistics over the rows of all ranks; the ranks then train like one process with all rows."""
    for norm in norms(model):
        norm.__class__ = SynchronisedBatchNorm  # same parameters and buffers, only `_normed` differs


@contextmanager
def estimating_statistics(model: nn.Module) -> Iterator[None]:
    """Re-estimate the BatchNorm statistics of a model as the average over the forward passes within the context.

    Use it after averaging checkpoints, because the mean of their statistics does not fit the mean of their weights.
    Dropout is off within the context, as in inference.
    """
    was_training = model.training
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    found = norms(model)
    frozen = any(norm.frozen for norm in found)
    for norm in found:
        norm.frozen = False
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    finally:
        for norm in found:
            norm.momentum = MOMENTUM
            norm.frozen = frozen
        model.train(was_training)
