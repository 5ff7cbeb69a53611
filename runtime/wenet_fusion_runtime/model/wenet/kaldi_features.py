"""The features of WeNet's runtimes: Kaldi's filter banks without dither, from samples scaled to the range of int16.

Shapes: N samples, T feature frames, F mel bins.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from wenet_fusion_runtime.console import unusable_package

INT16_SCALE = 32768.0
LOW_FREQ = 20.0  # Hz, where the first mel filter begins; the last one ends at half the sample rate


class FeatureSettings(NamedTuple):
    """Sample rate, mel bins and windows of a model's features.

    >>> FeatureSettings().window_samples, FeatureSettings(sample_rate=8000).shift_samples
    (400, 80)
    """

    sample_rate: int = 16000  # Hz
    bins: int = 80
    window_ms: float = 25.0
    shift_ms: float = 10.0

    @property
    def window_samples(self) -> int:
        """Samples that one frame covers."""
        return int(self.sample_rate * 0.001 * self.window_ms)

    @property
    def shift_samples(self) -> int:
        """Samples from one frame to the next."""
        return int(self.sample_rate * 0.001 * self.shift_ms)

    def samples(self, frames: int) -> int:
        """Return the number of samples that `frames` feature frames cover."""
        return (frames - 1) * self.shift_samples + self.window_samples


class KaldiFeatures:
    """Compute the filter banks of a block of samples. A frame depends on its own window only, so blocks may overlap.

    Args:
        settings: sample rate, mel bins and windows.
    Raises:
        ImportError: kaldi-native-fbank is not installed.

    >>> features = KaldiFeatures(FeatureSettings(bins=40))  # doctest: +SKIP
    >>> features(np.zeros(10960, np.float32)).shape  # doctest: +SKIP
    (67, 40)
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings
        self._library = _import_library()
        options = self._library.FbankOptions()
        options.frame_opts.samp_freq = settings.sample_rate
        options.frame_opts.frame_length_ms = settings.window_ms
        options.frame_opts.frame_shift_ms = settings.shift_ms
        options.frame_opts.dither = 0.0
        options.frame_opts.snip_edges = True
        options.frame_opts.window_type = "povey"
        options.mel_opts.num_bins = settings.bins
        options.mel_opts.low_freq = LOW_FREQ
        options.mel_opts.high_freq = 0.0
        options.energy_floor = 0.0
        self._options = options

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return the features (T, F) float32 of samples (N,) in [-1, 1]; T is the number of windows within them."""
        computer = self._library.OnlineFbank(self._options)
        computer.accept_waveform(self.settings.sample_rate, samples * np.float32(INT16_SCALE))
        frames = computer.num_frames_ready
        if not frames:
            return np.zeros((0, self.settings.bins), np.float32)
        return np.stack([computer.get_frame(frame) for frame in range(frames)])


def _import_library() -> Any:
    try:
        import kaldi_native_fbank
    except (ImportError, OSError, MemoryError, RuntimeError) as error:
        missing = (
            "WeNet's models need kaldi-native-fbank for their features, which is not installed: "
            "pip install 'wenet-fusion-runtime[wenet]'"
        )
        raise unusable_package("kaldi_native_fbank", missing, error) from error
    return kaldi_native_fbank
