"""List, check and read spoken-digit takes `{digit}_{speaker}_{index}.wav`."""

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
SPLITS = ("train", "dev", "test")
_NAME = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[^_]+)_(?P<index>[0-9]+)\.wav")


class Take(NamedTuple):
    """One recording of one digit."""

    digit: int
    speaker: str
    index: int
    path: Path

    @property
    def split(self) -> str:
        """The set of the take. Takes 0 to 4 are the corpus's official test set. We divide its official training set:
        takes 5 to 9 are our dev set, the others our training set.
        """
        return "test" if self.index < 5 else "dev" if self.index < 10 else "train"


def recordings_folder(data: Path) -> Path:
    """Return the folder with the wav files of a checkout: `data/recordings`, or `data` itself.

    Raises:
        OSError: the folder does not exist or contains no recording.
    """
    if not data.is_dir():
        raise OSError(f"{data}: no such folder; --data takes a checkout of the Free Spoken Digit Dataset")
    folder = data / "recordings" if (data / "recordings").is_dir() else data
    if not any(_NAME.fullmatch(path.name) for path in folder.glob("*.wav")):
        raise OSError(
            f"{folder}: no file named like 7_jackson_32.wav; --data takes a checkout of the Free Spoken Digit Dataset"
            " (the folder that contains recordings/); leave out --data to download it"
        )
    return folder


def list_takes(folder: Path) -> list[Take]:
    """Return all takes of `folder`, sorted by speaker, digit and index.

    Raises:
        ValueError: one of the three splits lacks a digit of a speaker.
    """
    matches = ((path, _NAME.fullmatch(path.name)) for path in folder.glob("*.wav"))
    takes = sorted(Take(int(m["digit"]), m["speaker"], int(m["index"]), path) for path, m in matches if m)
    takes.sort(key=lambda take: (take.speaker, take.digit, take.index))
    counts = Counter((take.speaker, take.digit, take.split) for take in takes)
    missing = [
        f"{speaker}: digit {digit}, {split}"
        for speaker in sorted({take.speaker for take in takes})
        for digit in range(10)
        for split in SPLITS
        if not counts[speaker, digit, split]
    ]
    if missing:
        raise ValueError(
            f"{folder}: no take for {len(missing)} of (speaker, digit, split), e.g. {'; '.join(missing[:3])};"
            " the copy is incomplete: fetch the data set again (50 takes, 0 to 49, of each digit and speaker)"
        )
    return takes


def read_takes(takes: list[Take]) -> tuple[dict[Take, np.ndarray], int]:
    """Return the samples of each take, float32 mono in [-1, 1], and their common sample rate.

    Raises:
        ValueError: files cannot be decoded or are empty (the message gives their number), or sample rates differ.
    """
    samples: dict[Take, np.ndarray] = {}
    rates: Counter[int] = Counter()
    problems: list[str] = []
    for take in takes:
        try:
            audio, rate = soundfile.read(take.path, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            problems.append(f"{take.path}: {error}")
            continue
        if not len(audio):
            problems.append(f"{take.path}: empty")
            continue
        samples[take] = audio.mean(axis=1)
        rates[rate] += 1
    if problems:
        raise ValueError(
            f"{len(problems)} of {len(takes)} recordings cannot be used; fetch them again. The first:\n  "
            + "\n  ".join(problems[:5])
        )
    if len(rates) != 1:
        raise ValueError(f"{takes[0].path.parent}: sample rates differ: {dict(rates)}; all recordings must share one")
    return samples, next(iter(rates))


def digest(takes: list[Take]) -> str:
    """Return the SHA-256 of the names and contents of all takes, to identify the data of a result."""
    total = hashlib.sha256()
    for take in sorted(takes, key=lambda take: take.path.name):
        total.update(take.path.name.encode() + b"\0" + hashlib.sha256(take.path.read_bytes()).digest())
    return total.hexdigest()
