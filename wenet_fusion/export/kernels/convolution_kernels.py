"""Convolutions as products and multiply-adds: faster for the few frames of a chunk, or more alike in every batch.

They compute what the modules they stand for compute, with the same states. Know no precision and no file.

Shapes: B rows, T feature frames, N packed frames, F mel bins, C channels, D width, W frames of
context or samples of a window.
"""

from typing import List, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenet_fusion.model.frontend.fbank import Spectrum
from wenet_fusion.model.layers.subsampling import KERNEL, STRIDE, Subsampling, SubsamplingOutput, subsampling_zeros


class DepthwiseTaps(nn.Module):
    """A fused depthwise convolution as one multiply-add per tap: (B, D, T + W) -> (B, T, D)."""

    def __init__(self, conv: nn.Conv1d):
        super().__init__()
        self.taps = conv.kernel_size[0]
        self.register_buffer("weight_KD", conv.weight.detach()[:, 0].t().contiguous())
        self.register_buffer("bias_D", conv.bias.detach().clone())

    def forward(self, x_BDT: Tensor, valid_N: Optional[Tensor]) -> Tensor:
        assert valid_N is None, "inference packs nothing"
        x_BTD = x_BDT.transpose(1, 2)
        frames = x_BTD.size(1) - self.taps + 1
        y_BTD = torch.addcmul(self.bias_D, x_BTD.narrow(1, 0, frames), self.weight_KD[0])
        for k in range(1, self.taps):
            y_BTD = torch.addcmul(y_BTD, x_BTD.narrow(1, k, frames), self.weight_KD[k])
        return y_BTD


class UnfoldedSubsampling(nn.Module):
    """A fused `Subsampling` whose convolutions are products of unfolded windows, channels last: (B, T, F) -> (B, T / 4, D).

    The second convolution, which has nearly all the work, is an `nn.Linear` and so gets packed weights like any other.
    The first one stays in float32: it reads the features themselves.
    """

    def __init__(self, source: Subsampling):
        super().__init__()
        conv_1, conv_2, out = source.conv_1.conv, source.conv_2.conv, source.out
        channels, bins = conv_2.out_channels, out.in_features // conv_2.out_channels
        self.kernel, self.stride, self.context = KERNEL, STRIDE, source.context
        self.state_sizes = source.state_sizes
        self.register_buffer("weight_1", conv_1.weight.detach().flatten(1).clone())  # (C, 9): of one input channel
        self.register_buffer("bias_1", conv_1.bias.detach().clone())
        self.conv_2 = nn.Linear(KERNEL * KERNEL * conv_2.in_channels, channels)
        self.activation = nn.ReLU()
        self.out = nn.Linear(out.in_features, out.out_features)
        with torch.no_grad():
            self.conv_2.weight.copy_(conv_2.weight.permute(0, 2, 3, 1).flatten(1))
            self.conv_2.bias.copy_(conv_2.bias)
            self.out.weight.copy_(out.weight.view(-1, channels, bins).transpose(1, 2).flatten(1))
            self.out.bias.copy_(out.bias)

    def init_state(self, batch: int, like: Tensor) -> List[Tensor]:
        """See `Subsampling.init_state`."""
        return subsampling_zeros(batch, self.state_sizes, self.context, like)

    def forward(
        self, x_BTF: Tensor, valid_half_N: Optional[Tensor], valid_N: Optional[Tensor], state: List[Tensor]
    ) -> SubsamplingOutput:
        assert valid_N is None, "inference packs nothing"
        x_1 = torch.cat([state[0].squeeze(1), x_BTF], dim=1)
        windows_1 = x_1.unfold(1, self.kernel, self.stride).unfold(2, self.kernel, self.stride).flatten(3)
        h_1 = torch.relu(F.linear(windows_1, self.weight_1, self.bias_1))  # (B, T / 2, F', C)
        x_2 = torch.cat([state[1].permute(0, 2, 3, 1), h_1], dim=1)
        windows_2 = x_2.unfold(1, self.kernel, self.stride).unfold(2, self.kernel, self.stride)
        frames, bins = windows_2.size(1), windows_2.size(2)
        rows = windows_2.permute(0, 1, 2, 4, 5, 3).reshape(x_BTF.size(0) * frames * bins, -1)
        h_2 = self.activation(self.conv_2(rows)).view(x_BTF.size(0), frames, -1)
        new_1 = x_1.narrow(1, x_1.size(1) - self.context, self.context).unsqueeze(1)
        new_2 = x_2.narrow(1, x_2.size(1) - self.context, self.context).permute(0, 3, 1, 2)
        return SubsamplingOutput(self.out(h_2), [new_1, new_2])


class ProductSpectrum(nn.Module):
    """A `Spectrum` as a matrix product.

    torch may run a convolution differently for one row and for several, and its sums then round differently. By itself
    that is harmless, but int8 layers behind it may round to another step. Products compute a row alike in every batch on
    more processors; no library promises it for all.
    """

    def __init__(self, source: Spectrum):
        super().__init__()
        self.window_samples, self.hop_samples = source.matrix.size(2), source.hop_samples
        self.register_buffer("matrix_CW", source.matrix.squeeze(1))

    def forward(self, samples_BN: Tensor) -> Tensor:
        windows_BTW = samples_BN.unfold(1, self.window_samples, self.hop_samples)
        return torch.matmul(windows_BTW, self.matrix_CW.t()).transpose(1, 2)
