#!/usr/bin/env python3
"""Stream hours of audio through one stream, and compare memory and speed at the beginning and at the end."""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from wenet_fusion_runtime import Recognizer
from wenet_fusion_runtime.console import HelpFormatter, run_main

from wenet_fusion.data.lists.manifest import read_manifest
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sources import read_samples


class Minute(NamedTuple):
    """Processor seconds of one minute of audio, and the resident memory after it."""

    compute_seconds: float
    resident_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("model", type=Path, help="exported file")
    parser.add_argument("data", type=Path, help="raw data.list whose utterances are streamed again and again")
    parser.add_argument("--minutes", type=int, default=60, help="minutes of audio; at least 10")
    parser.add_argument("--chunk", type=int, help="encoder frames per chunk; default: the model's")
    args = parser.parse_args(arguments)
    if args.minutes < 10:
        raise ValueError(f"--minutes {args.minutes}: a trend needs at least 10")

    recognizer = Recognizer(args.model)
    rate = recognizer.model.meta.sample_rate
    recordings = [read_samples(utterance, rate) for utterance in read_manifest(args.data, "raw")]
    stream, process = recognizer.create_stream(args.chunk), psutil.Process()
    minutes: list[Minute] = []
    blocks = itertools.islice(minute_blocks(recordings, rate), args.minutes)
    for block in progress_bar(blocks, args.minutes, "stream", "min"):
        started = time.process_time()
        for piece in np.array_split(block, 600):  # a tenth of a second, as a microphone delivers it
            stream.accept_waveform(piece)
        minutes.append(Minute(time.process_time() - started, process.memory_info().rss))
    stream.finish()

    # The first minutes also fill caches of the allocator; later growth comes from the stream.
    fifth = args.minutes // 5
    speed = [statistics.median(m.compute_seconds for m in part) / 60 for part in (minutes[:fifth], minutes[-fifth:])]
    memory = [
        statistics.median(m.resident_bytes for m in part) / 2**20
        for part in (minutes[fifth : 2 * fifth], minutes[-fifth:])
    ]
    print(f"{args.minutes} minutes in one stream, {len(stream.finals)} segments, {len(stream.text.split())} words")
    print(f"processor seconds per second of audio: first fifth {speed[0]:.4f}, last fifth {speed[1]:.4f}")
    print(f"resident memory: second fifth {memory[0]:.1f} MiB, last fifth {memory[1]:.1f} MiB")
    return 0


def minute_blocks(recordings: Sequence[np.ndarray], sample_rate: int) -> Iterator[np.ndarray]:
    """Yield endless audio in blocks of one minute."""
    waiting: list[np.ndarray] = []
    size = 60 * sample_rate
    for samples in itertools.cycle(recordings):
        waiting.append(samples)
        if sum(map(len, waiting)) >= size:
            joined = np.concatenate(waiting)
            yield joined[:size]
            waiting = [joined[size:]]


if __name__ == "__main__":
    run_main(main)
