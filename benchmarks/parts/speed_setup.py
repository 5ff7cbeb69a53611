"""Options, audio and model that the speed benchmarks of the runtime share.

The weights are random, but the posteriors are peaked and mostly blank, as those of a trained CTC head.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from parts.random_models import NO_DECODER, random_model, sharpen
from parts.runtime_calls import Calls
from parts.timing import Timing, by_turns
from tqdm import tqdm

from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.trained_model import TrainedModel

BLANK_SHARE, SHARPNESS = 0.85, 20.0  # see `sharpen`
SAMPLE_RATE = 16000
SEGMENT_SECONDS = 20  # length of the noise


class Sizes(NamedTuple):
    encoder: EncoderConfig
    decoder: DecoderConfig
    vocabulary: int
    chunkings: tuple[Chunking, ...]
    seconds: float  # length of a stream's audio


SIZES = Sizes(EncoderConfig(), DecoderConfig(), 5000, (Chunking(16, 4), Chunking(4, 16)), 2.0)
QUICK = Sizes(
    EncoderConfig(dim=16, layers=2, heads=2, feed_forward=32, conv_kernel=4, subsampling_channels=4, max_distance=8),
    DecoderConfig(layers=1, reverse_layers=1, heads=2, feed_forward=32), 50, (Chunking(8, 2),), 2.0,
)  # fmt: skip


class Settings(NamedTuple):
    """The options of a benchmark."""

    sizes: Sizes
    rounds: int  # turns of every call
    timed: int  # measured calls in a turn
    seed: int
    output: Path
    is_quick: bool

    @property
    def effort(self) -> str:
        """The number of measured calls, for a report."""
        return f"Medians of {self.rounds * self.timed} calls ({self.rounds} rounds of {self.timed})"


def parse_settings(description: str | None, arguments: Sequence[str] | None, seeded: str) -> Settings:
    """Parse the options, and limit torch to one thread.

    Args:
        description: description of the benchmark.
        arguments: arguments of the command; None: those of the process.
        seeded: what the seed determines, for the help of --seed.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of every call (default: 15)")
    parser.add_argument("--timed", type=int, default=2, help="measured calls in a turn (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help=f"seed of {seeded} (default: 0)")
    parser.add_argument("--quick", action="store_true", help="use a toy model and 2 rounds, to test the program")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables and the numbers")
    args = parser.parse_args(arguments)
    if min(args.rounds, args.timed) < 1:
        raise ValueError("--rounds and --timed must be 1 or more")
    torch.set_num_threads(1)
    sizes, rounds = (QUICK, 2) if args.quick else (SIZES, args.rounds)
    return Settings(sizes, rounds, args.timed, args.seed, args.output, args.quick)


def noise_of(seed: int) -> np.ndarray:
    """Return SEGMENT_SECONDS of noise."""
    return np.random.default_rng(seed).normal(0, 0.1, SAMPLE_RATE * SEGMENT_SECONDS).astype(np.float32)


def peaked_model(sizes: Sizes, noise: np.ndarray, seed: int, decoder: DecoderConfig = NO_DECODER) -> TrainedModel:
    """Return a model with random weights whose posteriors on the noise are peaked and mostly blank."""
    trained = random_model(sizes.encoder, sizes.chunkings, sizes.vocabulary, seed, decoder)
    sharpen(trained, torch.from_numpy(noise), BLANK_SHARE, SHARPNESS)
    return trained


def measure(calls: Calls, settings: Settings, title: str) -> dict[str, Timing]:
    """Time the calls by turns, with a progress bar."""
    with tqdm(total=settings.rounds * len(calls), desc=title, unit="turn", leave=False, disable=None) as bar:
        return by_turns(calls, settings.rounds, settings.timed, bar.update)
