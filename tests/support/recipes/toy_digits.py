"""Make a tiny corpus of noise in the layout of the Free Spoken Digit Dataset."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
SPEAKERS = ("ann", "bob")
TAKES = 14  # of each digit and speaker: 0-4 test, 5-9 dev, 10-13 train
FILES = 10 * TAKES * len(SPEAKERS)


def write_checkout(folder: Path) -> Path:
    """Write `folder`/recordings. No two takes have the same length, so a length in words.ctm identifies its take."""
    (folder / "recordings").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"{digit}_{speaker}_{index}" for speaker in SPEAKERS for digit in range(10) for index in range(TAKES)]
    for number, name in enumerate(names):
        take = 0.3 * rng.uniform(-1, 1, 400 + number)
        soundfile.write(folder / "recordings" / f"{name}.wav", take, RATE, subtype="PCM_16")
    return folder
