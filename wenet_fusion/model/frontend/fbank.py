"""Compute Kaldi's log-mel filterbank features inside the model, as a causal op with state.

Shapes: B rows, N samples, T feature frames, F mel bins, K frequency bins, W window samples.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRE_EMPHASIS = 0.97
INT16_SCALE = 32768.0  # Kaldi computes features from int16 samples; our samples are in [-1, 1]
ENERGY_FLOOR = torch.finfo(torch.float32).eps  # Kaldi's floor; the same for every dtype


class FbankOutput(NamedTuple):
    """Features, and the samples with which the next window begins."""

    features_BTF: Tensor
    state_BW: Tensor  # the last window - hop samples


class Fbank(nn.Module):
    """Kaldi's log-mel filterbank (povey window, DC removal, pre-emphasis 0.97, power spectrum, no dither).

    Frame t covers the `window_samples` samples that end at `hop_samples * (t + 1)`. So n * hop samples give n frames
    without look-ahead. The samples before the first one count as zeros.

    Kaldi's steps up to the spectrum (DC removal, pre-emphasis, window, zero padding, DFT) are linear: one matrix does
    them, as a strided convolution. Squares, the mel matrix and a log follow. All export formats have these operators.

    Args:
        sample_rate: Hz.
        num_mel_bins: F.
        window_ms, hop_ms: frame length and shift.
        low_freq, high_freq: edges of the mel filters in Hz; high_freq <= 0 is added to the Nyquist frequency.

    Raises:
        ValueError: a mel filter would contain no frequency bin, or the edges are not ordered.

    >>> fbank = Fbank(sample_rate=16000, num_mel_bins=80)
    >>> fbank(torch.zeros(1, 16000), fbank.init_state(1)).features_BTF.shape
    torch.Size([1, 100, 80])
    """

    mel_FK: Tensor

    def __init__(
        self,
        sample_rate: int,
        num_mel_bins: int,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        low_freq: float = 20.0,
        high_freq: float = 0.0,
    ):
        super().__init__()
        self.window_samples = int(sample_rate * window_ms / 1000)
        self.hop_samples = int(sample_rate * hop_ms / 1000)
        self.energy_floor = ENERGY_FLOOR  # TorchScript reads no module constants
        fft_size = 1 << (self.window_samples - 1).bit_length()
        mel_FK = mel_filters(num_mel_bins, fft_size, sample_rate, low_freq, high_freq)
        dtype = torch.get_default_dtype()
        self.spectrum = Spectrum(spectrum_matrix(self.window_samples, fft_size).to(dtype), self.hop_samples)
        self.register_buffer("mel_FK", mel_FK.to(dtype), persistent=False)

    def init_state(self, batch: int) -> Tensor:
        """Return zeros (B, window - hop)."""
        return torch.zeros(
            batch, self.window_samples - self.hop_samples, dtype=self.mel_FK.dtype, device=self.mel_FK.device
        )

    def forward(self, samples_BN: Tensor, state_BW: Tensor) -> FbankOutput:
        """Return the features of N samples, a multiple of hop_samples, and the next state."""
        samples = torch.cat([state_BW, samples_BN], dim=1)
        real, imaginary = self.spectrum(samples).chunk(2, dim=1)
        energy_BFT = torch.matmul(self.mel_FK, real.square() + imaginary.square())
        features = energy_BFT.clamp(min=self.energy_floor).log().transpose(1, 2)
        return FbankOutput(features, samples[:, samples.size(1) - state_BW.size(1) :])


class Spectrum(nn.Module):
    """A matrix (2K, W) applied to each window: samples (B, N) -> (B, 2K, T).

    Args:
        matrix: (2K, W).
        hop_samples: shift between windows.

    >>> Spectrum(torch.zeros(8, 400), hop_samples=160)(torch.zeros(1, 720)).shape
    torch.Size([1, 8, 3])
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor, hop_samples: int):
        super().__init__()
        self.hop_samples = hop_samples
        self.register_buffer("matrix", matrix.unsqueeze(1), persistent=False)  # (2K, 1, W)

    def forward(self, samples_BN: Tensor) -> Tensor:
        """Return (B, 2K, T)."""
        return F.conv1d(samples_BN.unsqueeze(1), self.matrix, stride=self.hop_samples)


def spectrum_matrix(window_samples: int, fft_size: int) -> Tensor:
    """Return the matrix that maps W samples to their spectrum: (2K, W) float64, K = fft_size / 2, real parts first.

    It omits the Nyquist bin, because no mel filter includes it.
    """
    identity = torch.eye(window_samples, dtype=torch.float64)
    remove_dc = identity - 1.0 / window_samples
    previous = torch.cat([identity[:1], identity[:-1]])  # Kaldi repeats the first sample
    pre_emphasise = identity - PRE_EMPHASIS * previous
    n = torch.arange(window_samples, dtype=torch.float64)
    povey = (0.5 - 0.5 * torch.cos(2 * math.pi * n / (window_samples - 1))) ** 0.85
    k = torch.arange(fft_size // 2, dtype=torch.float64).unsqueeze(1)
    angle = 2 * math.pi * k * n / fft_size
    dft = torch.cat([torch.cos(angle), -torch.sin(angle)])
    return INT16_SCALE * (dft * povey) @ pre_emphasise @ remove_dc


def mel_filters(num_mel_bins: int, fft_size: int, sample_rate: int, low_freq: float, high_freq: float) -> Tensor:
    """Return Kaldi's triangular filters on the scale mel = 1127 ln(1 + f / 700): (F, K) float64.

    Raises:
        ValueError: a filter would contain no frequency bin, or the edges are not ordered.
    """
    nyquist = sample_rate / 2
    high = high_freq if high_freq > 0 else nyquist + high_freq
    if not 0 <= low_freq < high <= nyquist:
        raise ValueError(
            f"mel filters from {low_freq} Hz to {high} Hz do not fit into 0-{nyquist} Hz: set low_freq and high_freq"
        )
    edges = torch.linspace(_mel(low_freq), _mel(high), num_mel_bins + 2, dtype=torch.float64)
    left, centre, right = (edges[i : i + num_mel_bins].unsqueeze(1) for i in range(3))
    bins = torch.arange(fft_size // 2, dtype=torch.float64) * sample_rate / fft_size
    mel = 1127.0 * torch.log1p(bins / 700.0)
    filters = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clamp(min=0)
    empty = (filters.sum(1) == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"{num_mel_bins} mel bins are too many for {sample_rate} Hz: filters {empty} contain no frequency bin; "
            f"use fewer (num_mel_bins: 40 suits 8 kHz, 80 suits 16 kHz)"
        )
    return filters


def _mel(frequency: float) -> float:
    return 1127.0 * math.log1p(frequency / 700.0)
