"""Synthesize a list of texts; write FLAC files at 16 kHz and Kaldi's wav.scp, text and utt2spk.

Speech in other languages, of kind "foreign-CODE", gets no transcript: a recognizer should print nothing for it.
Each utterance depends only on the seed, its number and its text. So after an interruption, the same command continues,
and after a change of the texts, it synthesizes only the changed ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
from spoken_forms import spoken_form
from synthesizers import Synthesizer, open_synthesizer
from tqdm import tqdm
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import read_lines, write_text

_SAMPLE_RATE = 16000
_PAUSE_SECONDS = (0.05, 0.5)  # before and after the speech
_FLOOR_DB = (-85.0, -60.0)  # level of the added noise, dB relative to full scale
_PER_FOLDER = 1000  # number of utterances


def utterances(texts: Path) -> Iterator[tuple[int, str, str]]:
    """Yield number, kind and transcript of each line.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not "KIND<tab>TRANSCRIPT".
    """
    lines = [line.split("\t") for line in read_lines(texts)]
    for number, line in enumerate(lines):
        if len(line) != 2 or not line[1].strip():
            raise ValueError(f'{texts}:{number + 1}: is not "KIND<tab>TRANSCRIPT"')
        yield number, line[0], line[1]


def with_pauses(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Trim silence, set the peak to a random level, add pauses, and add faint noise to the whole utterance."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=1e-9))
    if not len(loud):
        raise ValueError("the synthesizer returned silence")
    speech = samples[loud[0] : loud[-1] + 1]
    before, after = (int(value * _SAMPLE_RATE) for value in rng.uniform(*_PAUSE_SECONDS, 2))
    padded = np.pad(speech * (rng.uniform(0.15, 0.9) / np.abs(speech).max()), (before, after))
    return padded + rng.standard_normal(padded.size) * 10 ** (rng.uniform(*_FLOOR_DB) / 20)


def speak_all(synthesizer: Synthesizer, texts: Path, seed: int, limit_seconds: float, output: Path) -> float:
    """Write the audio of all texts, or stop after `limit_seconds` of audio; 0: no limit. Return the seconds."""
    total, rows = 0.0, []
    bar = tqdm(utterances(texts), desc=str(output), unit="utterance", disable=None)
    for number, kind, transcript in bar:
        path = output / "audio" / f"{number // _PER_FOLDER:03d}" / f"{number:06d}.flac"
        record = path.with_suffix(".voice")
        # Records of earlier versions hold no text.
        if not record.exists() or record.read_text(encoding="utf-8").split()[2:] not in (
            [],
            [kind, *transcript.split()],
        ):
            rng = np.random.default_rng([seed, number])
            language = kind.removeprefix("foreign-") if kind.startswith("foreign-") else "en"
            try:
                spoken = synthesizer.speak(spoken_form(kind, transcript, rng), language, rng)
                samples = with_pauses(soxr.resample(spoken.samples, spoken.sample_rate, _SAMPLE_RATE), rng)
            except ValueError as error:
                raise ValueError(f"{texts}:{number + 1}: {error}; change or remove '{transcript}'") from error
            path.parent.mkdir(parents=True, exist_ok=True)
            for old in (record, path.with_suffix(".whisper")):
                old.unlink(missing_ok=True)
            soundfile.write(path, np.clip(samples, -1, 1), _SAMPLE_RATE, subtype="PCM_16")
            write_text(record, f"{spoken.voice} {samples.size / _SAMPLE_RATE:.3f} {kind} {transcript}\n")
        voice, seconds = record.read_text(encoding="utf-8").split()[:2]
        words = "" if kind.startswith("foreign-") else transcript
        rows.append((f"{output.name}-{number:06d}", path.absolute(), words, voice))
        total += float(seconds)
        if limit_seconds and total >= limit_seconds:
            break
    for name, column in (("wav.scp", 1), ("text", 2), ("utt2spk", 3)):
        write_text(output / name, "".join(f"{row[0]} {row[column]}\n" for row in rows))
    return total


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python local/speak_texts.py hibari texts.tsv --hours 2 --output /data/speech/hibari",
    )
    parser.add_argument("synthesizer", help="hibari, kokoro, flite or festival")
    parser.add_argument("texts", type=Path, help="file that make_texts.py wrote")
    parser.add_argument("--voices", nargs="*", default=[], help="voices to draw from (default: all)")
    parser.add_argument("--kokoro", type=Path, help="folder of kokoro.onnx and voices/")
    parser.add_argument(
        "--hours", type=float, default=0, help="stop after this many hours of speech (default: all texts)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of voices and ways of speaking (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write; keys begin with its name")
    args = parser.parse_args(argv)
    synthesizer = open_synthesizer(args.synthesizer, args.voices, args.kokoro)
    seconds = speak_all(synthesizer, args.texts, args.seed, 3600 * args.hours, args.output)
    print(f"{args.output}: {seconds / 3600:.2f} h")
    return 0


if __name__ == "__main__":
    run_main(main)
