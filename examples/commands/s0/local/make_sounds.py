"""Write non-speech for the training: silence, noise, hum, clicks, breath, tones, music, and speech played backwards."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from sounds import music, noise, tones
from tqdm import tqdm
from wenet_fusion_runtime import load_audio
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

from wenet_fusion.data.lists.kaldi import read_table

_SAMPLE_RATE = 16000
# As long as spoken utterances: a batch holds utterances of similar lengths, and some of them must have words.
_SECONDS = (1.0, 8.0)
_BACKWARDS_SHARE = 0.45  # share of sounds that are speech played backwards


def hum(length: int, rng: np.random.Generator) -> np.ndarray:
    """Return mains hum: 50 or 60 Hz with overtones."""
    time = np.arange(length) / _SAMPLE_RATE
    lowest = float(rng.choice([50.0, 60.0]))
    overtones = range(1, int(rng.integers(3, 30)))
    return sum(
        np.sin(2 * np.pi * lowest * n * time + rng.uniform(0, 6)) / n ** rng.uniform(0.3, 1.5) for n in overtones
    )


def clicks(length: int, rng: np.random.Generator) -> np.ndarray:
    """Return clicks and knocks, like the sounds of keys, doors and steps: short ringing bursts of noise."""
    sound = 0.003 * noise(length, rng)
    for start in rng.integers(0, length, size=max(1, int(length / _SAMPLE_RATE * rng.uniform(0.5, 8)))):
        time = np.arange(min(int(rng.uniform(0.005, 0.15) * _SAMPLE_RATE), length - start)) / _SAMPLE_RATE
        ring = np.sin(2 * np.pi * np.exp(rng.uniform(np.log(80), np.log(4000))) * time)
        burst = (ring + rng.uniform(0, 1.5) * rng.standard_normal(time.size)) * np.exp(-time * rng.uniform(30, 400))
        sound[start : start + time.size] += (burst * rng.uniform(0.1, 1)).astype(np.float32)
    return sound


def breath(length: int, rng: np.random.Generator) -> np.ndarray:
    """Return breaths and rustling: noise whose level changes slowly."""
    places = np.linspace(0, length, max(3, int(length / _SAMPLE_RATE * rng.uniform(1, 6))))
    level = np.interp(np.arange(length), places, rng.uniform(0, 1, places.size) ** 3)
    return noise(length, rng) * level


def silence(length: int, rng: np.random.Generator) -> np.ndarray:
    """Return digital silence or the faint noise of a converter."""
    return np.zeros(length) if rng.random() < 0.5 else noise(length, rng) * 10 ** (rng.uniform(-3.5, -2.5))


_KINDS: tuple[Callable[[int, np.random.Generator], np.ndarray], ...] = (
    silence, noise, hum, clicks, breath,
    lambda length, rng: tones(length, _SAMPLE_RATE, rng),
    lambda length, rng: music(length, _SAMPLE_RATE, rng),
    lambda length, rng: music(length, _SAMPLE_RATE, rng) + 0.5 * clicks(length, rng),
)  # fmt: skip


def backwards(length: int, paths: Sequence[Path], rng: np.random.Generator) -> np.ndarray:
    """Return the sum of one, two or four recordings of speech, played backwards."""
    sound = np.zeros(length, np.float32)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        samples = load_audio(paths[rng.integers(len(paths))], _SAMPLE_RATE)
        samples = np.resize(samples[::-1], length)
        sound += samples / (np.sqrt(np.square(samples).mean()) + 1e-6) * np.float32(rng.uniform(0.3, 1))
    return sound


def write_sounds(paths: Sequence[Path], hours: float, seed: int, output: Path) -> int:
    """Write sounds with a total length of `hours`, and wav.scp, text and utt2spk. Return the number of sounds."""
    rng, rows, total = np.random.default_rng(seed), [], 0.0
    (output / "audio").mkdir(parents=True, exist_ok=True)
    with tqdm(total=round(hours * 3600), desc=str(output), unit="s", disable=None) as bar:
        while total < hours * 3600:
            length = int(rng.uniform(*_SECONDS) * _SAMPLE_RATE)
            if paths and rng.random() < _BACKWARDS_SHARE:
                name, sound = "backwards", backwards(length, paths, rng)
            else:
                number = int(rng.integers(len(_KINDS)))
                name, sound = f"sound{number}", _KINDS[number](length, rng)
            peak = max(float(np.abs(sound).max()), 1e-3)
            sound = sound / peak * 10 ** (rng.uniform(-50, -1) / 20) if name != "sound0" else sound
            path = output / "audio" / f"{len(rows):06d}.flac"
            soundfile.write(path, np.clip(sound, -1, 1), _SAMPLE_RATE, subtype="PCM_16")
            rows.append((f"{output.name}-{len(rows):06d}", path.absolute(), name))
            total += length / _SAMPLE_RATE
            bar.update(length // _SAMPLE_RATE)
    write_text(output / "wav.scp", "".join(f"{key} {path}\n" for key, path, _ in rows))
    write_text(output / "text", "".join(f"{key}\n" for key, _, _ in rows))
    write_text(output / "utt2spk", "".join(f"{key} {name}\n" for key, _, name in rows))
    return len(rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python local/make_sounds.py --speech wav.scp --hours 1 --output /data/speech/sounds",
    )
    parser.add_argument("--speech", type=Path, help="wav.scp of recordings to play backwards")
    parser.add_argument("--root", type=Path, default=Path(), help="folder where relative paths in --speech start")
    parser.add_argument("--hours", type=float, default=1.0, help="duration of all sounds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sounds (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; keys begin with its name")
    args = parser.parse_args(argv)
    paths = [args.root / path for path in read_table(args.speech).values()] if args.speech else []
    print(f"{args.output}: {write_sounds(paths, args.hours, args.seed, args.output)} sounds")
    return 0


if __name__ == "__main__":
    run_main(main)
