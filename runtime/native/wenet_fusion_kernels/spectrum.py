"""The spectrum of Kaldi's front-end as a matrix, to check that a model has no other one.

The library computes the same spectrum with a fast Fourier transform.
"""

import numpy as np

PRE_EMPHASIS = 0.97
SAMPLE_SCALE = 32768.0  # Kaldi's samples have 16 bits
TOLERANCE = 1e-5  # of the largest number of the matrix


def kaldi_spectrum(window: int, bins: int) -> np.ndarray:
    """Return the matrix that maps a window of samples to its spectrum: (2 * bins, window), real parts first.

    Its steps are the removal of the mean, pre-emphasis, the window function "povey" and the Fourier transform.

    Args:
        window: number of samples.
        bins: number of frequencies, half the length of the transform.

    >>> kaldi_spectrum(400, 256).shape
    (512, 400)
    """
    n = np.arange(window)
    povey = (0.5 - 0.5 * np.cos(2 * np.pi * n / (window - 1))) ** 0.85
    # The weight of the first sample is 0, so it does not matter that none comes before it.
    waves = np.exp(-1j * np.pi / bins * np.outer(np.arange(bins), n)) * (SAMPLE_SCALE * povey)
    found = waves - PRE_EMPHASIS * np.append(waves[:, 1:], np.zeros((bins, 1)), axis=1)
    found -= found.mean(1, keepdims=True)
    return np.concatenate([found.real, found.imag])


def check_spectrum(matrix: np.ndarray) -> None:
    """Check the spectrum of a model.

    Args:
        matrix: (2 * bins, window).

    Raises:
        ValueError: it is another one than Kaldi's.
    """
    expected = kaldi_spectrum(matrix.shape[1], len(matrix) // 2)
    if np.abs(matrix - expected).max() > TOLERANCE * np.abs(expected).max():
        raise ValueError("spectrum is not that of Kaldi's front-end, the only one that this package computes")
