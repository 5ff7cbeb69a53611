"""Small trees in the layouts of LibriSpeech and AISHELL-1, with tones for speech."""

from pathlib import Path

import numpy as np
import soundfile
from support.model.tones import speak
from wenet_fusion_runtime.audio.resampling import Resampler

RATE = 16000
WORDS = ("one", "two", "three")
CHARACTERS = {"one": "一", "two": "二", "three": "三"}


def _record(path: Path, words: list[str], rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = Resampler(8000, RATE).process(speak(words, rng), last=True)
    soundfile.write(path, samples, RATE, subtype="PCM_16")


def _utterances(count: int, rng: np.random.Generator) -> list[list[str]]:
    return [rng.choice(WORDS, rng.integers(1, 5)).tolist() for _ in range(count)]


def write_librispeech_part(part: Path, count: int, seed: int = 0) -> None:
    """Write `count` utterances of two speakers: SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac and .trans.txt."""
    rng = np.random.default_rng(seed)
    lines: dict[Path, list[str]] = {}
    for number, words in enumerate(_utterances(count, rng)):
        speaker, chapter = 10 * seed + number % 2, 7
        folder = part / str(speaker) / str(chapter)
        key = f"{speaker}-{chapter}-{number // 2:04d}"
        _record(folder / f"{key}.flac", words, rng)
        lines.setdefault(folder / f"{speaker}-{chapter}.trans.txt", []).append(f"{key} {' '.join(words).upper()}\n")
    for table, rows in lines.items():
        table.write_text("".join(rows))


def write_aishell(corpus: Path, counts: dict[str, int]) -> None:
    """Write data_aishell: wav/SET/SPEAKER/KEY.wav and the transcript, words of one or two characters between spaces."""
    rng = np.random.default_rng(0)
    rows = []
    for index, (name, count) in enumerate(counts.items()):
        for number, words in enumerate(_utterances(count, rng)):
            speaker = f"S{index}{number % 2:03d}"
            key = f"BAC009{speaker}W{number:04d}"
            _record(corpus / "wav" / name / speaker / f"{key}.wav", words, rng)
            text = "".join(CHARACTERS[word] for word in words)
            rows.append(f"{key} {text[:2]} {text[2:]}\n")
    transcript = corpus / "transcript" / "aishell_transcript_v0.8.txt"
    transcript.parent.mkdir(parents=True)
    transcript.write_text("".join(rows), encoding="utf-8")
