"""Synthesise the ten digits in many voices of espeak-ng, in the layout of the recorded corpus.

espeak-ng's voices keep state, so the same call does not always give the same samples. Takes are therefore made once
and kept.
"""

import ctypes
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

SAMPLE_RATE = 8000
TAKES = 50
VOICES = (
    "en-us+m1", "en-us+m3", "en-us+m7", "en-us+f2", "en-us+f5", "en-us+max", "en-us+linda", "en-us+adam",
    "en+m2", "en+m4", "en+f1", "en+f4", "en+steph", "en-gb-x-rp+m8", "en-gb-x-rp+f3",
    "en-gb-scotland+m6", "en-gb-scotland+belinda", "en-us-nyc+m5", "en-us-nyc+anika", "en-029+david",
)  # fmt: skip
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER


class Manner(NamedTuple):
    """Speed, pitch and pitch range of a take."""

    words_per_minute: int
    pitch: int
    pitch_range: int


class Espeak:
    """The espeak-ng library, called through ctypes. `say` returns a word as float32 samples at `sample_rate`."""

    def __init__(self) -> None:
        """Start the library. Raises OSError if it is missing or does not start."""
        try:
            import espeakng_loader
        except ImportError as error:
            raise OSError("espeakng_loader is missing; run: pip install -c constraints.txt -e '.[recipes]'") from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._pieces: list[np.ndarray] = []
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = callback_type(self._collect)  # kept here, because the library calls it later
        # The library accepts at most 160 characters for the path of its data, now and whenever it reads a voice.
        # Therefore link the data into a temporary folder.
        self._folder = tempfile.TemporaryDirectory()
        (Path(self._folder.name) / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path())
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, self._folder.name.encode(), _DONT_EXIT)
        if self.sample_rate <= 0:
            raise OSError(f"espeak-ng does not start with the data in {espeakng_loader.get_data_path()}")
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples, count: int, events) -> int:
        if count and samples:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, word: str, voice: str, manner: Manner) -> np.ndarray:
        """Return float32 samples in [-1, 1]. Raises OSError if the library lacks the voice."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise OSError(f"espeak-ng has no voice {voice}")
        for parameter, value in zip((_RATE, _PITCH, _RANGE), manner):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._pieces.clear()
        text = word.encode() + b"\0"
        self._library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 0, 0, _UTF8, None, None)
        return np.concatenate(self._pieces or [np.zeros(0, np.int16)]).astype(np.float32) / 32768


def trim(
    samples: np.ndarray, sample_rate: int, threshold_db: float = -40.0, margin_seconds: float = 0.01
) -> np.ndarray:
    """Trim leading and trailing samples below `threshold_db` relative to the peak, except for a margin. The recorded
    corpus is trimmed like this.
    """
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max(initial=0) * 10 ** (threshold_db / 20))
    if not len(loud):
        return samples[:0]
    margin = round(margin_seconds * sample_rate)
    return samples[max(0, loud[0] - margin) : loud[-1] + 1 + margin]


def synthesise(folder: Path, voices: tuple[str, ...] = VOICES, takes: int = TAKES, seed: int = 0) -> int:
    """Write `takes` takes of each digit in each voice to `folder`, which is replaced at the end. Return their number.

    Raises:
        OSError: espeak-ng is missing or returned no audio.
    """
    engine = Espeak()
    rng = np.random.default_rng(seed)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    jobs = [(voice, digit, index) for voice in voices for digit in range(10) for index in range(takes)]
    for voice, digit, index in tqdm(jobs, desc="synthesising digits", unit="take", leave=False, disable=None):
        manner = Manner(*(int(value) for value in rng.integers((115, 20, 20), (215, 80, 80))))
        spoken = soxr.resample(engine.say(_WORDS[digit], voice, manner), engine.sample_rate, SAMPLE_RATE)
        samples = trim(spoken, SAMPLE_RATE)
        if not len(samples):
            raise OSError(f"espeak-ng returned no audio for {_WORDS[digit]} in voice {voice}")
        samples = samples * (rng.uniform(0.1, 0.8) / np.abs(samples).max())
        speaker = voice.replace("+", "-").replace("_", "-")
        soundfile.write(unfinished / f"{digit}_{speaker}_{index}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return len(jobs)
