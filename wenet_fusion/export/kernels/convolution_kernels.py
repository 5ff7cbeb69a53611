"""Convolutions as matrix products and multiply-adds: faster for the few frames of a chunk, or less batch-dependent.

Each module computes the same as the module it replaces, with the same state.

Shapes: B rows, T feature frames, N samples, F mel bins, C channels, D width, K taps, W frames of context or samples of
a window.
"""

from typing import List, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenet_fusion.model.frontend.fbank import Spectrum
from wenet_fusion.model.layers.layer_protocol import StepContext
from wenet_fusion.model.layers.subsampling import KERNEL, STRIDE, Subsampling


def bias_of(layer: Union[nn.Linear, nn.Conv1d, nn.Conv2d]) -> Tensor:
    """Return a copy of a layer's bias; zeros if it has none."""
    return layer.weight.new_zeros(layer.weight.size(0)) if layer.bias is None else layer.bias.detach().clone()


def as_linear(layer: nn.Module) -> nn.Linear:
    """Return the layer, typed as `nn.Linear`.

    Raises:
        TypeError: the layer is not an `nn.Linear`; a `LinearNorm` becomes one when norms are folded.
    """
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"expected nn.Linear, found {type(layer).__name__}: fold the norms first, with fuse_norms")
    return layer


class DepthwiseTaps(nn.Module):
    """A fused depthwise convolution as one multiply-add per tap: (B, D, T + W) -> (B, T, D).

    Args:
        conv: a convolution with one group per channel.

    >>> conv = nn.Conv1d(4, 4, kernel_size=3, groups=4)
    >>> DepthwiseTaps(conv)(torch.zeros(1, 4, 10), None).shape
    torch.Size([1, 8, 4])
    """

    weight_KD: Tensor
    bias_D: Tensor

    def __init__(self, conv: Union[nn.Conv1d, nn.Conv2d]):
        super().__init__()
        self.taps = conv.kernel_size[0]
        self.register_buffer("weight_KD", conv.weight.detach()[:, 0].t().contiguous())
        self.register_buffer("bias_D", bias_of(conv))

    def forward(self, x_BDT: Tensor, valid_N: Optional[Tensor]) -> Tensor:
        """Return the convolution's frames; `valid_N` is None in inference."""
        assert valid_N is None, "inference packs nothing"
        x_BTD = x_BDT.transpose(1, 2)
        frames = x_BTD.size(1) - self.taps + 1
        y_BTD = torch.addcmul(self.bias_D, x_BTD.narrow(1, 0, frames), self.weight_KD[0])
        for k in range(1, self.taps):
            y_BTD = torch.addcmul(y_BTD, x_BTD.narrow(1, k, frames), self.weight_KD[k])
        return y_BTD


class UnfoldedSubsampling(nn.Module):
    """A fused `Subsampling` that computes its convolutions as products of unfolded windows: (B, T, F) -> (B, T / 4, D).

    The second convolution needs nearly all the time. Here it is an `nn.Linear`, which can become int8. The first
    one reads the features themselves and stays in float32.

    Args:
        source: a subsampling whose norms are folded.

    >>> from wenet_fusion.model.layers.norm import fuse_norms
    >>> source = fuse_norms(nn.Sequential(Subsampling(num_mel_bins=40, dim=16, channels=4)).eval())[0]
    >>> UnfoldedSubsampling(source).conv_2
    Linear(in_features=36, out_features=4, bias=True)
    """

    weight_1: Tensor
    bias_1: Tensor

    def __init__(self, source: Subsampling):
        super().__init__()
        conv_1, conv_2, out = source.conv_1.conv, source.conv_2.conv, as_linear(source.out)
        channels, bins = conv_2.out_channels, out.in_features // conv_2.out_channels
        self.kernel, self.stride, self.context = KERNEL, STRIDE, source.context
        self.state_sizes = source.state_sizes
        self.register_buffer("weight_1", conv_1.weight.detach().flatten(1).clone())  # (C, 9): one input channel
        self.register_buffer("bias_1", bias_of(conv_1))
        self.conv_2 = nn.Linear(KERNEL * KERNEL * conv_2.in_channels, channels)
        self.activation = nn.ReLU()
        self.out = nn.Linear(out.in_features, out.out_features)
        with torch.no_grad():
            self.conv_2.weight.copy_(conv_2.weight.permute(0, 2, 3, 1).flatten(1))
            self.conv_2.bias.copy_(bias_of(conv_2))
            self.out.weight.copy_(out.weight.view(-1, channels, bins).transpose(1, 2).flatten(1))
            self.out.bias.copy_(bias_of(out))

    def init_state(self, batch: int, cached: int, zero: Tensor) -> List[Tensor]:
        """Return zeros, as `Subsampling.init_state` does."""
        return [zero.expand(batch, channels, self.context, bins) for channels, bins in self.state_sizes]

    def forward(self, x_BTF: Tensor, state: List[Tensor], context: StepContext) -> Tuple[Tensor, List[Tensor]]:
        """Return what `Subsampling.forward` returns."""
        assert context.valid_N is None, "inference packs nothing"
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
        return self.out(h_2), [new_1, new_2]


class ProductSpectrum(nn.Module):
    """A `Spectrum` as a matrix product.

    torch may compute a convolution differently for one row than for several rows. Its sums then round differently, and
    int8 layers after it may turn this into a difference of a whole quantisation step. A matrix product has
    this dependence on fewer processors, but no library guarantees that a row has the same result in every batch.

    Args:
        source: the spectrum as a convolution.

    >>> from wenet_fusion.model.frontend.fbank import spectrum_matrix
    >>> ProductSpectrum(Spectrum(spectrum_matrix(400, 512).float(), 160))(torch.zeros(1, 1600)).shape
    torch.Size([1, 512, 8])
    """

    matrix_CW: Tensor

    def __init__(self, source: Spectrum):
        super().__init__()
        matrix = source.get_buffer("matrix")
        self.window_samples, self.hop_samples = matrix.size(2), source.hop_samples
        self.register_buffer("matrix_CW", matrix.squeeze(1))

    def forward(self, samples_BN: Tensor) -> Tensor:
        """Return the real and imaginary parts (B, C, T) of all windows."""
        windows_BTW = samples_BN.unfold(1, self.window_samples, self.hop_samples)
        return torch.matmul(windows_BTW, self.matrix_CW.t()).transpose(1, 2)
