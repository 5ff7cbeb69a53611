"""Synthesizers that speak each sentence in a random voice.

To add a synthesizer, write a class with the method `speak`, and add it to `open_synthesizer`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import soundfile
import soxr
from spoken_forms import with_accent

if TYPE_CHECKING:
    import hibari

_MOST_PHONEMES = 400  # per sentence; further phonemes are cut off
_ACCENT_SHARE = 0.35  # share of utterances with an accent
_TRACT_RANGE = (0.86, 1.18)  # factors of pitch and formants: a shorter vocal tract has a larger factor


class Spoken(NamedTuple):
    """An utterance: float32 samples, their rate in Hz, and the name of the voice."""

    samples: np.ndarray
    sample_rate: int
    voice: str


class Synthesizer(Protocol):
    """Speaks a sentence in a random voice."""

    def speak(self, text: str, language: str, rng: np.random.Generator) -> Spoken:
        """Speak a sentence in a random voice and manner; `language` is a code such as en."""
        ...


class Pronouncer:
    """Converts sentences to ids of misaki's phonemes, which hibari and Kokoro share."""

    def __init__(self, model: hibari.Hibari) -> None:
        self._model = model

    def ids(self, text: str, language: str, accent_share: float, rng: np.random.Generator) -> list[int]:
        """Return the phoneme ids of a sentence. A share of `accent_share` of English sentences gets a random accent.

        Raises:
            OSError: the package phonemizer is missing, which languages other than English need.
        """
        phonemes = " ".join(self._model.phonemize(text)) if language == "en" else _foreign_phonemes(text, language)
        if language == "en" and rng.random() < accent_share:
            phonemes = with_accent(phonemes, rng)
        return self._model.ids(phonemes[:_MOST_PHONEMES])


def _foreign_phonemes(text: str, language: str) -> str:
    """Return the phonemes of a sentence by espeak-ng."""
    try:
        import espeakng_loader
        from phonemizer import phonemize
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError as error:
        raise OSError("phonemizer is missing; run: pip install -r requirements.txt") from error
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    code = {"fr": "fr-fr", "pt": "pt-br"}.get(language, language)
    return phonemize(text, language=code, backend="espeak", with_stress=True, strip=True)


class Hibari:
    """The package hibari-tts: one voice, whose predicted spectrum and pitch are changed at random for each sentence.

    Raises:
        OSError: the package is missing.
    """

    def __init__(self) -> None:
        try:
            from hibari import Hibari as Model
        except ImportError as error:
            raise OSError("hibari is missing; run: pip install -r requirements.txt") from error
        self._model = Model()
        self.pronouncer = Pronouncer(self._model)

    def speak(self, text: str, language: str, rng: np.random.Generator) -> Spoken:
        from hibari import dsp

        ids = self.pronouncer.ids(text, language, _ACCENT_SHARE, rng)
        pitch, intonation = np.exp(rng.uniform(np.log(0.42), np.log(1.6))), rng.uniform(0.5, 1.5)
        # Lower voices have longer vocal tracts; the factor varies around the typical value for the pitch.
        tract = np.clip(pitch ** rng.uniform(0.1, 0.3) * rng.uniform(0.9, 1.1), 0.78, 1.28)
        bend = rng.uniform(0.94, 1.06)  # factor of the higher formants relative to the lower ones
        inputs = {
            "ids": np.asarray([ids], np.int64),
            "speed": np.asarray([rng.uniform(0.7, 1.45)], np.float32),
        }
        harmonic, rotation, noise, residue, phase, f0 = (each[0] for each in self._model.sess.run(None, inputs))
        voiced = f0 > 40
        mean = f0[voiced].mean() if voiced.any() else 1.0
        f0 = np.where(voiced, np.clip(mean * pitch * (np.maximum(f0, 1) / mean) ** intonation, 45, 600), f0)
        f0 = f0.astype(np.float32)
        places = _warped_places(harmonic.shape[0], tract, bend)
        slope = np.linspace(0, rng.uniform(-0.8, 0.8), harmonic.shape[0], dtype=np.float32)[:, None]
        harmonic, noise, residue = (_at(each, places) + slope for each in (harmonic, noise, residue))
        nearest = np.minimum(np.rint(places).astype(int), harmonic.shape[0] - 1)
        noise = noise + np.float32(rng.normal(0, 0.4))  # breath
        residue = residue - np.float32(2 * abs(np.log(pitch)))  # the residue contains remains of the original pitch
        samples = dsp.synth(harmonic, rotation[nearest], noise, residue, phase[nearest], f0, rng)
        return Spoken(samples, dsp.SR, f"hibari-{pitch:.2f}-{tract:.2f}")


def _warped_places(bins: int, tract: float, bend: float) -> np.ndarray:
    """Return, for each frequency bin of a changed voice, the bin of the original voice."""
    relative = np.arange(bins) / (bins - 1)
    return np.clip(relative / tract * bend ** (2 * relative - 0.5), 0, 1) * (bins - 1)


def _at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Interpolate the rows of `values` (bins, frames) linearly at fractional places."""
    low = np.minimum(places.astype(int), len(values) - 2)
    share = (places - low).astype(np.float32)[:, None]
    return values[low] * (1 - share) + values[low + 1] * share


class Kokoro:
    """Kokoro-82M in an ONNX file: random mixtures of its voices, with hibari's pronunciation.

    Args:
        model: the ONNX file.
        voices: folder with a file NAME.bin for each voice (510 x 256 float32).
        names: voices to mix; empty: all.

    Raises:
        OSError: a file or package is missing.
        ValueError: a voice file has another size.
    """

    def __init__(self, model: Path, voices: Path, names: Sequence[str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model), options)
        paths = [voices / f"{name}.bin" for name in names] or sorted(voices.glob("*.bin"))
        if not paths:
            raise OSError(f"{voices}: holds no voice files NAME.bin; the README tells where to get them")
        for path in paths:
            if path.stat().st_size != 510 * 256 * 4:
                raise ValueError(f"{path}: holds no voice of 510 x 256 float32 numbers; get it again")
        self._voices = {path.stem: np.fromfile(path, np.float32).reshape(-1, 1, 256) for path in paths}
        self._pronouncer = Hibari().pronouncer

    def speak(self, text: str, language: str, rng: np.random.Generator) -> Spoken:
        ids = self._pronouncer.ids(text, language, _ACCENT_SHARE / 2, rng)  # many voices have accents of their own
        count = min(int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2])), len(self._voices))
        names = rng.choice(sorted(self._voices), count, replace=False)
        shares = rng.dirichlet([2.0] * count)
        row = min(len(ids) - 2, 509)
        style = sum(share * self._voices[name][row] for share, name in zip(shares, names)).astype(np.float32)
        tract = _draw_tract(rng)
        speed = np.asarray([rng.uniform(0.75, 1.4) / tract], np.float32)
        names_of_inputs = [each.name for each in self._session.get_inputs()]  # tokens, style, speed
        inputs = dict(zip(names_of_inputs, (np.asarray([ids], np.int64), style, speed)))
        samples = self._session.run(None, inputs)[0].reshape(-1)
        return _with_tract(Spoken(samples, 24000, "kokoro-" + "+".join(names)), tract)


class Flite:
    """The command flite with its built-in voices."""

    _VOICES = ("slt", "awb", "rms", "kal16")

    def __init__(self, names: Sequence[str]) -> None:
        if not shutil.which("flite"):
            raise OSError("flite is missing; run: apt-get install flite")
        self._names = tuple(names) or self._VOICES

    def speak(self, text: str, language: str, rng: np.random.Generator) -> Spoken:
        _refuse_foreign("flite", language)
        voice, tract = str(rng.choice(self._names)), _draw_tract(rng)
        settings = [f"duration_stretch={tract * rng.uniform(0.75, 1.3):.2f}"]
        if voice != "awb":
            settings.append(f"int_f0_target_mean={rng.uniform(80, 240):.0f}")
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            options = [part for setting in settings for part in ("--setf", setting)]
            command = ["flite", "-voice", voice, *options, "-t", text, "-o", file.name]
            _run(command)
            samples, sample_rate = soundfile.read(file.name, dtype="float32")
        return _with_tract(Spoken(samples, sample_rate, f"flite-{voice}"), tract)


class Festival:
    """The command text2wave of festival with its installed voices."""

    _VOICES = ("voice_kal_diphone", "voice_ked_diphone", "voice_cmu_us_slt_arctic_hts")

    def __init__(self, names: Sequence[str]) -> None:
        if not shutil.which("text2wave"):
            raise OSError("text2wave is missing; run: apt-get install festival festvox-kallpc16k festvox-us-slt-hts")
        self._names = tuple(names) or self._VOICES

    def speak(self, text: str, language: str, rng: np.random.Generator) -> Spoken:
        _refuse_foreign("festival", language)
        voice, tract = str(rng.choice(self._names)), _draw_tract(rng)
        stretch = f"(Parameter.set 'Duration_Stretch {tract * rng.uniform(0.75, 1.3):.2f})"
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            command = ["text2wave", "-eval", f"({voice})", "-eval", stretch, "-o", file.name]
            _run(command, text)
            samples, sample_rate = soundfile.read(file.name, dtype="float32")
        return _with_tract(Spoken(samples, sample_rate, f"festival-{voice.removeprefix('voice_')}"), tract)


def _run(command: Sequence[str], text: str | None = None) -> None:
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"{command[0]} fails with status {done.returncode}: {done.stderr.strip()[-200:]}")


def _refuse_foreign(name: str, language: str) -> None:
    if language != "en":
        raise ValueError(f"{name} speaks only English, not '{language}'; use hibari or kokoro for other languages")


def _draw_tract(rng: np.random.Generator) -> float:
    return float(rng.uniform(*_TRACT_RANGE)) if rng.random() < 0.7 else 1.0


def _with_tract(spoken: Spoken, tract: float) -> Spoken:
    """Play an utterance faster by the factor `tract`, which raises pitch and formants by the same factor."""
    samples = (
        soxr.resample(spoken.samples, spoken.sample_rate * tract, spoken.sample_rate) if tract != 1 else spoken.samples
    )
    return Spoken(samples, spoken.sample_rate, spoken.voice)


def open_synthesizer(name: str, voices: Sequence[str] = (), folder: Path | None = None) -> Synthesizer:
    """Return a synthesizer by name.

    Args:
        name: hibari, kokoro, flite or festival.
        voices: voices to draw from; empty: all (hibari changes its only voice).
        folder: with kokoro, the folder of kokoro.onnx and voices/.

    Raises:
        OSError: a package, command or file is missing; the message says how to get it.
        ValueError: there is no such synthesizer.
    """
    if name == "hibari":
        return Hibari()
    if name == "kokoro":
        if folder is None or not (folder / "kokoro.onnx").is_file():
            raise OSError(
                f"{folder}: holds no kokoro.onnx; name the folder with --kokoro (the README tells how to make it)"
            )
        return Kokoro(folder / "kokoro.onnx", folder / "voices", voices)
    if name == "flite":
        return Flite(voices)
    if name == "festival":
        return Festival(voices)
    raise ValueError(f"there is no synthesizer '{name}'; give hibari, kokoro, flite or festival")
