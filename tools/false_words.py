#!/usr/bin/env python3
"""Streams sounds without a word (silence, noise, tones, 30 s each) through an exported model and counts what it writes."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from wenet_fusion_runtime import Recognizer

from wenet_fusion.console import run_main

SECONDS = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("model", type=Path, help="exported file")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of each sound")
    args = parser.parse_args(arguments)

    recognizer = Recognizer(args.model)
    meta = recognizer.model.meta
    words = sounds = 0
    for chunk in meta.chunk_sizes:
        for name, samples in wordless_sounds(meta.sample_rate, args.seconds):
            stream = recognizer.create_stream(chunk)
            stream.accept_waveform(samples)
            stream.finish()
            sounds += 1
            if stream.text:
                words += len(stream.text.split())
                print(f"{name}, chunks of {chunk}: {stream.text}")
    hours = sounds * args.seconds / 3600
    print(f"{args.model}: {words} words in {sounds} sounds of {args.seconds:g} s without one, {words / hours:.1f} per hour")
    return 0


def wordless_sounds(sample_rate: int, seconds: float) -> Iterator[tuple[str, np.ndarray]]:
    """Names and float32 samples; levels are RMS relative to full scale."""
    rng = np.random.default_rng(0)
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    yield "digital silence", np.zeros(len(time), np.float32)
    for level in (-60, -40, -20):
        noise = np.clip(10 ** (level / 20) * rng.standard_normal(len(time)), -1, 1)
        yield f"white noise at {level} dB", noise.astype(np.float32)
    for frequency in (100, 440, 1000, 3000):
        for level in (-40, -10):
            tone = 10 ** (level / 20) * np.sqrt(2) * np.sin(2 * np.pi * frequency * time)
            yield f"{frequency} Hz tone at {level} dB", tone.astype(np.float32)


if __name__ == "__main__":
    run_main(main)
