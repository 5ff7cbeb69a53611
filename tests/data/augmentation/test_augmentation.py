"""Changes to waveforms and features: exact, repeatable, and free of side effects."""

import numpy as np
import pytest
import torch

from wenet_fusion.data.augmentation.additive_noise import coloured_noise
from wenet_fusion.data.augmentation.feature_masks import SpecAugmentConfig, feature_masks
from wenet_fusion.data.augmentation.waveforms import Augmentation, WaveformAugmenter

RATE = 8000


def sine(seconds=1.0, hertz=500, amplitude=0.25):
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def draw(config, samples, seed=0):
    return WaveformAugmenter(config, RATE).augment(samples, np.random.default_rng(seed))


def test_default_augmentation_changes_nothing():
    assert np.array_equal(draw(Augmentation(), sine()), sine())
    assert draw(Augmentation(speed_factors=(1.1,), noise_probability=1.0), sine(0)).size == 0


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.07])
def test_speed_changes_length_and_pitch(factor):
    out = draw(Augmentation(speed_factors=(factor,)), sine())
    assert abs(out.size - RATE / factor) <= 1 and out.dtype == np.float32
    peak = np.abs(np.fft.rfft(out * np.hanning(out.size))).argmax() * RATE / out.size
    assert abs(peak - 500 * factor) < 3


def test_noise_has_the_asked_ratio_and_gain_never_clips():
    out = draw(Augmentation(noise_snr_db=(10.0, 10.0), noise_probability=1.0), sine())
    ratio = np.mean(sine() ** 2) / np.mean((out - sine()) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(10, abs=0.1)
    assert np.abs(draw(Augmentation(gain_db=(-6.0, -6.0)), sine())).max() == pytest.approx(0.25 / 2, rel=0.01)
    assert np.abs(draw(Augmentation(gain_db=(40.0, 40.0)), sine())).max() == pytest.approx(1.0)
    assert not draw(Augmentation(noise_probability=1.0), np.zeros(100, np.float32)).any(), "silence stays silence"


def test_noise_colours():
    rng = np.random.default_rng(0)
    for pink, slope in ((False, 0.0), (True, -1.0)):
        power = np.abs(np.fft.rfft(coloured_noise(1 << 16, pink, rng))) ** 2
        bands = [power[1 << n : 2 << n].mean() for n in range(6, 15)]
        assert np.polyfit(np.arange(len(bands)), np.log2(bands), 1)[0] == pytest.approx(slope, abs=0.1)


def test_half_of_the_added_noise_is_pink():
    """Neighbouring samples of pink noise are alike, those of white noise are not."""
    config, quiet = Augmentation(noise_snr_db=(0.0, 0.0), noise_probability=1.0), sine(amplitude=1e-3)
    added = [draw(config, quiet, seed) - quiet for seed in range(40)]
    pink = [np.corrcoef(samples[1:], samples[:-1])[0, 1] > 0.3 for samples in added]
    assert 10 <= sum(pink) <= 30
    none = Augmentation(noise_snr_db=(0.0, 0.0), noise_probability=0.5)
    noisy = [not np.array_equal(draw(none, quiet, seed), quiet) for seed in range(40)]
    assert 10 <= sum(noisy) <= 30, "the other utterances have none"


def test_augmentation_is_repeatable_and_never_touches_its_input():
    config = Augmentation((0.9, 1.0, 1.1), (-6.0, 6.0), (5.0, 20.0), 0.5)
    samples = sine()
    outputs = [draw(config, samples, seed) for seed in (1, 1, 2)]
    assert np.array_equal(outputs[0], outputs[1]) and not np.array_equal(outputs[0], outputs[2])
    assert np.array_equal(samples, sine())


def generators(count):
    """Return a generator for each row."""
    return [np.random.default_rng([0, row]) for row in range(count)]


def test_feature_masks():
    config = SpecAugmentConfig(2, 30, 2, 8, 0.2)
    lengths = [200, 50, 0, 3]
    masks = feature_masks(torch.tensor(lengths), 40, config, generators(4))
    assert masks.shape == (4, 200, 40) and masks.dtype == torch.bool and masks.any()
    for row, length in zip(masks, lengths):
        assert not row[length:].any()
        assert row.all(dim=1).sum() <= 2 * min(30, 0.2 * length)
        assert length == 0 or row[:length].all(dim=0).sum() <= 16
    assert torch.equal(masks, feature_masks(lengths, 40, config, generators(4)))
    assert torch.equal(masks[1:, :50], feature_masks(lengths[1:], 40, config, generators(4)[1:])), "in any batch"
    assert not feature_masks(lengths, 40, SpecAugmentConfig(0, 30, 0, 8, 0.2), generators(4)).any()


def test_mask_widths_cover_their_range():
    masks = feature_masks([100] * 400, 20, SpecAugmentConfig(1, 5, 0, 0, 1.0), generators(400))
    widths = masks.all(dim=2).sum(dim=1)
    assert widths.unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert masks.any(dim=2).any(dim=0).all(), "every frame can be masked"
