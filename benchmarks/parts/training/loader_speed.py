"""Measure how many seconds of audio one core loads per second, by file format, and the padding of batches.

Times are CPU seconds of this process, which loads like a worker of training. The files are in the page cache.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from parts.benchmark_report import Goal, goals_table
from tqdm import tqdm

from wenet_fusion.data.augmentation.additive_noise import NoiseFilesConfig
from wenet_fusion.data.augmentation.audio_lists import read_audio_list
from wenet_fusion.data.augmentation.channels import ClippingConfig, LowPassConfig, TelephoneConfig
from wenet_fusion.data.augmentation.rooms import RoomConfig
from wenet_fusion.data.augmentation.waveforms import Augmentation
from wenet_fusion.data.batching import epoch_batches, padding_fraction
from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.data.judgement import FrontendGeometry
from wenet_fusion.data.sources import AudioSource, Utterance, read_samples
from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.text.tokenizer import CharTokenizer
from wenet_fusion.text.vocabulary_file import Vocabulary

RATE = 16_000
WANTED = 300  # goal for FLAC and Opus with speed perturbation: times real time
FORMATS: dict[str, dict[str, str]] = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}
SPEED = Augmentation(speed_factors=(0.9, 1.1))
ROWS = 8  # utterances in a batch
PADDED_SECONDS = (40.0, 400.0, 1600.0)  # values of max_batch_seconds for which the padding is measured


class Speeds(NamedTuple):
    """CPU seconds to load all utterances of one format. Each stage includes the stages before it."""

    decoder: float  # libsndfile alone
    reader: float  # and our checks of the file
    resampled: float  # and resampling
    loaded: float  # and making batches
    speed: float  # and speed perturbation
    augmented: float  # and all other augmentation

    def bottleneck(self) -> str:
        """Return the stage that adds most time up to speed perturbation, and its share of that time."""
        steps = np.diff([0.0, *self[:5]])
        parts = ("decoder", "reader", "resampling", "batches", "speed")
        return f"{parts[int(steps.argmax())]} ({100 * steps.max() / self.speed:.0f} %)"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--audio", default="", metavar="LIST", help="speech, a path per line (default: artificial speech)"
    )
    parser.add_argument("--utterances", type=int, default=24, help="utterances of each format (default: 24)")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds; the fastest counts (default: 5)")


def measure(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return the section's text and its numbers."""
    if min(args.utterances, args.rounds) < 1:
        raise ValueError("--utterances and --rounds must be 1 or more")
    rng = np.random.default_rng(args.seed)
    speech = (
        recorded(args.audio, args.utterances) if args.audio else [synthetic_speech(rng) for _ in range(args.utterances)]
    )
    seconds = sum(samples.size for samples in speech) / RATE
    with tempfile.TemporaryDirectory() as folder:
        augmentation = full_augmentation(Path(folder), rng)
        found: dict[str, Speeds] = {}
        formats = [(name, rate) for rate in (RATE, 48_000) for name in FORMATS]
        for name, rate in tqdm(formats, desc="loader", leave=False, disable=None):
            files = write(speech, Path(folder), name, rate)
            found[f"{name} {rate // 1000} kHz"] = speeds(files, rate, augmentation, args.rounds)
    titles = ["audio", "decoder", "loaded", "with speed perturbation", "with all augmentation", "bottleneck"]
    rows = [
        [
            name,
            *(f"{seconds / value:.0f}" for value in (row.decoder, row.loaded, row.speed, row.augmented)),
            row.bottleneck(),
        ]
        for name, row in found.items()
    ]
    goals = [
        Goal(f"{name} with speed perturbation, times real time", WANTED, seconds / found[name].speed)
        for name in ("flac 16 kHz", "opus 16 kHz", "flac 48 kHz", "opus 48 kHz")
    ]
    padding = paddings(rng)
    text = "\n\n".join(
        [
            f"Times real time on one core, {len(speech)} utterances of {seconds / len(speech):.1f} s on average, "
            f"resampled to {RATE} Hz; the fastest of {args.rounds} rounds. `loaded` is the decoder, the reader's "
            "checks, resampling and making batches; each column on its right adds a stage.",
            markdown_table(titles, rows),
            goals_table(goals),
            "Padding of batches, for durations like those of read books (2 to 17 s, most of them 12 to 16 s):",
            markdown_table(
                ["`max_batch_seconds`", "padding"], [[f"{n:g}", f"{100 * p:.1f} %"] for n, p in padding.items()]
            ),
        ]
    )
    record = {name: row._asdict() for name, row in found.items()}
    return text, {"audio_seconds": seconds, "cpu_seconds": record, "goals": goals, "padding": padding}


def recorded(path: str, count: int) -> list[np.ndarray]:
    return [read_samples(utterance, RATE) for utterance in read_audio_list(path, "--audio")[:count]]


def synthetic_speech(rng: np.random.Generator) -> np.ndarray:
    """Return 5 to 15 s of artificial syllables: harmonics of a changing pitch, with quiet noise."""
    size = int(rng.uniform(5, 15) * RATE)
    times = np.arange(size) / RATE
    phase = 2 * np.pi * np.cumsum(rng.uniform(90, 220) * (1 + 0.2 * np.sin(2 * np.pi * 0.7 * times))) / RATE
    voice = sum(np.sin(number * phase) / number for number in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 5) * times), 0, 1)
    return (0.1 * voice * syllables + 0.002 * rng.standard_normal(size)).clip(-1, 1).astype(np.float32)


def full_augmentation(folder: Path, rng: np.random.Generator) -> Augmentation:
    """Return a configuration with every kind of augmentation, each with a usual probability."""
    soundfile.write(folder / "noise.flac", 0.1 * rng.standard_normal(60 * RATE), RATE)
    (folder / "noise.list").write_text("noise.flac\n", encoding="utf-8")
    return Augmentation(
        speed_factors=SPEED.speed_factors,
        gain_db=(-6.0, 6.0),
        noise_probability=0.2,
        dither=1.0,
        room=RoomConfig(0.3),
        noise_files=NoiseFilesConfig(0.5, (str(folder / "noise.list"),)),
        clipping=ClippingConfig(0.05),
        low_pass=LowPassConfig(0.1),
        telephone=TelephoneConfig(0.2),
    )


def write(speech: Sequence[np.ndarray], folder: Path, name: str, rate: int) -> list[Utterance]:
    files = []
    for number, samples in enumerate(speech):
        path = folder / f"{name}-{rate}-{number}"
        converted = samples if rate == RATE else soxr.resample(samples, RATE, rate).clip(-1, 1)
        file = io.BytesIO()
        soundfile.write(file, converted, rate, **FORMATS[name])
        path.write_bytes(file.getvalue())
        files.append(Utterance(path.name, AudioSource(str(path)), "", 0.0))
    return files


def speeds(files: Sequence[Utterance], rate: int, full: Augmentation, rounds: int) -> Speeds:
    """Time the stages by turns, and return the fewest CPU seconds of each."""
    tokenizer = CharTokenizer(Vocabulary(("<blank>", "<unk>", "<sos/eos>", "a"), "words", "units.txt"))
    frontend = FrontendGeometry(RATE, 640, 2560)
    plain, speed, changed = (
        SpeechDataset(files, tokenizer, frontend, augmentation) for augmentation in (None, SPEED, full)
    )
    stages: list[Callable[[], None]] = [
        lambda: each(lambda file: soundfile.read(file.source.path, dtype="float32"), files),
        lambda: each(lambda file: read_samples(file, rate), files),
        lambda: each(lambda file: read_samples(file, RATE), files),
        lambda: load(plain),
        lambda: load(speed),
        lambda: load(changed),
    ]
    fastest = [float("inf")] * len(stages)
    for _ in range(rounds):
        for number, stage in enumerate(stages):
            started = time.process_time()
            stage()
            fastest[number] = min(fastest[number], time.process_time() - started)
    return Speeds(*fastest)


def each(call: Callable[[Utterance], object], files: Sequence[Utterance]) -> None:
    for file in files:
        call(file)


def load(dataset: SpeechDataset) -> None:
    for start in range(0, len(dataset), ROWS):
        dataset.load(range(len(dataset))[start : start + ROWS], epoch=0)


def paddings(rng: np.random.Generator) -> dict[float, float]:
    """Return the share of padding for each value of `max_batch_seconds`."""
    seconds = np.where(rng.random(10_000) < 0.7, rng.uniform(12, 16.5, 10_000), rng.uniform(2, 12, 10_000)).tolist()
    plans = {size: epoch_batches(seconds, size, max_batch_rows=1000, seed=0, epoch=0) for size in PADDED_SECONDS}
    return {size: padding_fraction(seconds, plan) for size, plan in plans.items()}
