"""The front-end computes Kaldi's features, and gives the same for any cut at a hop."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import absent
from hypothesis import given
from hypothesis import strategies as st
from support.model import laws
from torch import Tensor
from torchaudio.compliance import kaldi

from wenet_fusion.model.frontend.fbank import Fbank

pytestmark = pytest.mark.usefixtures("float64")

RATES = [(8000, 40), (16000, 80)]  # Hz, mel bins


def features(fbank: Fbank, samples_N: Tensor) -> Tensor:
    whole = samples_N[: len(samples_N) - len(samples_N) % fbank.hop_samples].unsqueeze(0)
    return fbank(whole, fbank.init_state(1)).features_BTF[0]


def kaldi_features(fbank: Fbank, samples_N: Tensor, sample_rate: int, num_mel_bins: int) -> Tensor:
    """Kaldi's frame k begins at hop * k, ours ends at hop * (k + 1): zeros in front make the windows the same."""
    padded = torch.nn.functional.pad(samples_N, (fbank.window_samples - fbank.hop_samples, 0))
    return kaldi.fbank(
        padded.unsqueeze(0) * 32768,
        sample_frequency=sample_rate,
        num_mel_bins=num_mel_bins,
        dither=0.0,
        snip_edges=True,
    )


def reference(samples: np.ndarray, sample_rate: int, num_mel_bins: int) -> np.ndarray:
    """Compute features by Kaldi's definition, frame by frame in float64, without our algebra."""
    window, hop = sample_rate // 40, sample_rate // 100
    size = 2 ** math.ceil(math.log2(window))
    shape = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))) ** 0.85
    mel = [1127 * math.log(1 + f / 700) for f in np.arange(size // 2) * sample_rate / size]
    low, high = (1127 * math.log(1 + f / 700) for f in (20, sample_rate / 2))
    width = (high - low) / (num_mel_bins + 1)
    padded, out = np.concatenate([np.zeros(window - hop), samples]), []
    for start in range(0, len(padded) - window + 1, hop):
        frame = padded[start : start + window] * 32768
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * shape, size)) ** 2
        energies = []
        for b in range(num_mel_bins):
            centre = low + (b + 1) * width
            energies.append(sum(max(0.0, 1 - abs(m - centre) / width) * p for m, p in zip(mel, power)))
        out.append(np.log(np.maximum(energies, np.finfo(np.float32).eps)))
    return np.array(out)


def speechlike(sample_rate: int, seed: int = 0) -> np.ndarray:
    """Return voiced, noisy and silent stretches, float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(sample_rate) / sample_rate
    voice = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20))
    loudness = np.repeat([0.0, 0.1, 0.02, 0.0, 0.3], sample_rate // 5)
    return (loudness * (voice + 0.1 * rng.standard_normal(sample_rate))).clip(-1, 1).astype(np.float32)


def recorded(data: Path, sample_rate: int) -> np.ndarray:
    pattern = "fsdd/recordings/*.wav" if sample_rate == 8000 else "LibriSpeech/dev-clean/*/*/*.flac"
    found = sorted(data.glob(pattern))[:200:40]
    if not found:
        absent(f"no {pattern} in {data}")
    read = [soundfile.read(path, dtype="float32") for path in found]
    assert all(rate == sample_rate for _, rate in read)
    return np.concatenate([samples for samples, _ in read])


def assert_equals_kaldi(samples: np.ndarray, sample_rate: int, num_mel_bins: int) -> None:
    fbank = Fbank(sample_rate, num_mel_bins).float()
    ours = features(fbank, torch.from_numpy(samples))
    error = (ours - kaldi_features(fbank, torch.from_numpy(samples), sample_rate, num_mel_bins)[: len(ours)]).abs()
    assert error.mean() <= 1e-4 and error.max() <= 0.1


@pytest.mark.parametrize("sample_rate, num_mel_bins", RATES)
def test_equals_kaldi_on_generated_audio(sample_rate: int, num_mel_bins: int) -> None:
    assert_equals_kaldi(speechlike(sample_rate), sample_rate, num_mel_bins)


@pytest.mark.parametrize("sample_rate, num_mel_bins", RATES)
def test_equals_kaldi_on_recorded_speech(sample_rate: int, num_mel_bins: int, recorded_data: Path) -> None:
    assert_equals_kaldi(recorded(recorded_data, sample_rate), sample_rate, num_mel_bins)


@pytest.mark.parametrize("sample_rate, num_mel_bins", RATES)
def test_equals_the_float64_reference(sample_rate: int, num_mel_bins: int) -> None:
    samples = speechlike(sample_rate)[: sample_rate // 2].astype(np.float64)
    expected = reference(samples, sample_rate, num_mel_bins)
    ours = features(Fbank(sample_rate, num_mel_bins), torch.from_numpy(samples)).numpy()
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= 1e-8
    assert np.isclose(ours[0], np.log(2.0**-23), rtol=1e-12).all(), "silence has Kaldi's float32 floor"


def fbank_op(fbank: Fbank) -> laws.Op:
    return lambda x, lengths, state: tuple(fbank(x, state))


@laws.random_geometries
@given(
    rate=st.sampled_from([8000, 16000]),
    window_ms=st.sampled_from([10.0, 20.0, 25.0, 32.0]),
    blocks=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_split(rate: int, window_ms: float, blocks: list[int], seed: int) -> None:
    fbank = Fbank(rate, 20, window_ms=window_ms)
    cuts = [fbank.hop_samples * frames for frames in np.cumsum(blocks)]
    x = 0.1 * laws.noise(seed, 2, cuts[-1])
    assert laws.split(fbank_op(fbank), fbank.init_state(2), x, torch.tensor([cuts[-1]] * 2), cuts[:-1]) <= laws.BOUND


def test_split_detects_a_remainder_that_is_one_sample_short() -> None:
    fbank = Fbank(8000, 20)
    x, lengths = 0.1 * laws.noise(0, 1, 800), torch.tensor([800])
    broken = laws.forgetful(fbank_op(fbank), lambda old, new: torch.cat([new[:, :1] * 0, new[:, 1:]], dim=1))
    late = laws.forgetful(fbank_op(fbank), lambda old, new: new.roll(1, dims=1))
    assert laws.split(fbank_op(fbank), fbank.init_state(1), x, lengths, [400]) <= laws.BOUND
    assert laws.split(late, fbank.init_state(1), x, lengths, [400]) > laws.BROKEN
    # The povey window is 0 at its first sample: only DC removal depends on it.
    assert laws.split(broken, fbank.init_state(1), x, lengths, [400]) > 1e3 * laws.BOUND


def test_a_frame_does_not_depend_on_later_samples() -> None:
    fbank, x = Fbank(8000, 40), 0.1 * laws.noise(0, 1, 800)
    y = x.clone()
    y[:, 400:] = 0.5
    before, after = (fbank(samples, fbank.init_state(1)).features_BTF for samples in (x, y))
    assert laws.difference(after[:, :5], before[:, :5]) <= laws.BOUND
    assert not torch.isclose(before[:, 5], after[:, 5]).all()


def test_wrong_geometry_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="128 mel bins are too many for 8000 Hz.*use fewer"):
        Fbank(8000, 128)
    with pytest.raises(ValueError, match="from 20.0 Hz to 5000.* do not fit into 0-4000"):
        Fbank(8000, 40, high_freq=5000.0)
