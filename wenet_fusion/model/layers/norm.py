"""BatchNorm after every linear and convolution layer, and its folding into their weights. The only file with a BatchNorm.

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

# Speech batches are small and correlated: a slow running average keeps the statistics stable (PAPER: 0.05 and below).
MOMENTUM = 0.05

# Where an encoder's norms stand. "fusion": a BatchNorm after every linear and convolution, all of which fold away. The
# others are what the paper compares with: a LayerNorm or a BatchNorm before each branch, or none at all.
NormKind = Literal["fusion", "layer", "batch", "none"]


class MaskedBatchNorm(nn.BatchNorm1d):
    """BatchNorm over packed rows, (N, C) or (N, C, F): padding never gets here, so it moves neither statistics nor gradients.

    In inference rows may also be (B, T, C) or (B, T, C, F), padding and all. Statistics are float32 or better, also under
    autocast.

    Args:
        num_features: C.
        gamma: initial scale.
        planes: whether F follows.
    """

    def __init__(self, num_features: int, gamma: float = 1.0, planes: bool = False):
        super().__init__(num_features, momentum=MOMENTUM)
        nn.init.constant_(self.weight, gamma)
        self.planes = planes
        self.frozen = False  # true: training uses the running statistics, as inference will

    def forward(self, rows: Tensor) -> Tensor:
        use_batch = self.training and not self.frozen
        momentum = self.momentum
        if use_batch and momentum is None:  # a plain average over the batches seen, see `estimating_statistics`
            self.num_batches_tracked += 1
            momentum = 1.0 / float(self.num_batches_tracked)
        with torch.autocast(rows.device.type, enabled=False):
            rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
            flat = rows.flatten(0, rows.dim() - (3 if self.planes else 2))
            normed = F.batch_norm(
                flat, self.running_mean, self.running_var, self.weight, self.bias, use_batch, momentum or 0.0, self.eps
            )
            return normed.view_as(rows)


class LinearNorm(nn.Module):
    """Linear -> BatchNorm -> constant scale over rows: (N, C_in) -> (N, C_out).

    Args:
        in_features, out_features: widths.
        gamma: initial value of the norm's scale; 0 makes a residual branch start as the identity.
        scale: constant factor on the output, one number for each output channel or for all; folded by `fuse_norms`.
        batch_norm: false leaves the norm out, for comparisons; the linear has a bias then.
    """

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
        y_NC = self.linear(rows_NC)
        if self.norm is not None:
            y_NC = self.norm(y_NC)
        return y_NC if self.scale is None else y_NC * self.scale

    def fused(self) -> nn.Linear:
        layer = copy.deepcopy(self.linear) if self.norm is None else fuse_linear_bn_eval(self.linear, self.norm)
        if self.scale is not None:
            with torch.no_grad():
                layer.weight.mul_(self.scale.expand(layer.out_features).unsqueeze(1))
                layer.bias.mul_(self.scale)
        return layer


class ConvNorm(nn.Module):
    """Convolution -> BatchNorm: (B, C, T) or (B, C, T, F) in, rows (N, C') or (N, C', F') out.

    The convolution pads nothing in time: context is state, given by the caller.

    Args:
        conv: `nn.Conv1d` or `nn.Conv2d`, without bias if batch_norm.
        batch_norm: false leaves the norm out, for comparisons.
    """

    def __init__(self, conv: Union[nn.Conv1d, nn.Conv2d], batch_norm: bool = True):
        super().__init__()
        self.conv = conv
        self.norm = MaskedBatchNorm(conv.out_channels, planes=isinstance(conv, nn.Conv2d)) if batch_norm else None

    def forward(self, x: Tensor, valid_N: Optional[Tensor]) -> Tensor:
        """valid_N counts the output's frames."""
        rows = pack(self.conv(x).transpose(1, 2), valid_N)
        return rows if self.norm is None else self.norm(rows)

    def fused(self) -> "FusedConv":
        return FusedConv(copy.deepcopy(self.conv) if self.norm is None else fuse_conv_bn_eval(self.conv, self.norm))


class FusedConv(nn.Module):
    """What `ConvNorm` becomes. (A fused `LinearNorm` is a plain `nn.Linear`.)"""

    def __init__(self, conv: Union[nn.Conv1d, nn.Conv2d]):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, valid_N: Optional[Tensor]) -> Tensor:
        return pack(self.conv(x).transpose(1, 2), valid_N)


def branch_norm(kind: NormKind, dim: int) -> nn.Module:
    """The norm before a branch, and where the Conformer has others; none in a FusionFormer."""
    if kind == "layer":
        return nn.LayerNorm(dim)
    return MaskedBatchNorm(dim) if kind == "batch" else nn.Identity()


def fuse_norms(model: nn.Module) -> nn.Module:
    """Folds every BatchNorm below `model`, in place, and returns it.

    Raises:
        ValueError: if the model is in training mode, or one BatchNorm would be left; names the module.
    """
    if model.training:
        raise ValueError(
            "fuse_norms needs the model in eval mode: in training the statistics still move; call model.eval()"
        )
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, (LinearNorm, ConvNorm)):
                setattr(module, child_name, child.fused())
    left = [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    if left:
        raise ValueError(f"fuse_norms cannot fold {', '.join(left)}: put the norm into a LinearNorm or a ConvNorm")
    return model


def norms(model: nn.Module) -> list[MaskedBatchNorm]:
    """The BatchNorms below `model`."""
    return [module for module in model.modules() if isinstance(module, MaskedBatchNorm)]


def freeze_statistics(model: nn.Module, frozen: bool = True) -> None:
    """Trains on with the running statistics as constants: for fine-tuning on little data and for the last steps."""
    for norm in norms(model):
        norm.frozen = frozen


@contextmanager
def estimating_statistics(model: nn.Module) -> Iterator[None]:
    """Within the context each forward adds its batch to a plain average of statistics that starts from nothing.

    Weights averaged over checkpoints have statistics that belong to none of them; this is how they get their own.
    Dropout is off, so the statistics are those of inference.
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
