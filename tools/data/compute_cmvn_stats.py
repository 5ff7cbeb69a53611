#!/usr/bin/env python3
"""Compute the feature statistics of a data.list with the model's own front-end: the global_cmvn file in WeNet's JSON
format.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import list_problems, write_text

from wenet_fusion.data.lists.manifest import read_manifest
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sources import Utterance, read_samples
from wenet_fusion.model.asr_model import build_fbank
from wenet_fusion.model.frontend.cmvn import CmvnStatistics
from wenet_fusion.model.frontend.fbank import ENERGY_FLOOR
from wenet_fusion.recipe import read_recipe

DIGITAL_SILENCE = math.log(ENERGY_FLOOR) + 1e-3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="training configuration; its front-end is used")
    parser.add_argument("--data", type=Path, required=True, help="data.list of the training set")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    parser.add_argument(
        "--max_utterances", type=int, default=0, help="use an even sample of at most N utterances; 0: all"
    )
    parser.add_argument("overrides", nargs="*", help="configuration values, key=value")
    args = parser.parse_intermixed_args(arguments)

    config = read_recipe(args.config, args.overrides)
    frontend = config.model.frontend
    utterances = even_sample(read_manifest(args.data), args.max_utterances)
    fbank = build_fbank(frontend)
    statistics, unreadable = CmvnStatistics(frontend.num_mel_bins), []
    for utterance in progress_bar(utterances, len(utterances), "cmvn", "utt"):
        try:
            samples = torch.from_numpy(read_samples(utterance, frontend.sample_rate))
        except (ValueError, OSError) as error:
            unreadable.append(f"{utterance.key}: {error}")
            continue
        whole = samples[: len(samples) // fbank.hop_samples * fbank.hop_samples]
        features = fbank(whole.unsqueeze(0), fbank.init_state(1)).features_BTF[0]
        # Digital silence is a constant of the file format, not of speech: its frames would only widen the variance.
        statistics.add(features[(features > DIGITAL_SILENCE).any(dim=1)])
    if len(unreadable) > config.data.max_skipped * len(utterances):
        raise ValueError(
            f"{len(unreadable)} of {len(utterances)} utterances cannot be read, more than "
            f"{100 * config.data.max_skipped:g} %: "
            f"mend them, take them out of {args.data}, or raise data.max_skipped\n{list_problems(unreadable)}"
        )
    if unreadable:
        print(f"skipped {len(unreadable)} utterances:\n{list_problems(unreadable)}", file=sys.stderr)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.output, statistics.to_json())
    print(
        f"{args.output}: {statistics.count} frames of {len(utterances) - len(unreadable)} utterances, "
        f"{len(unreadable)} skipped"
    )
    return 0


def even_sample(utterances: list[Utterance], count: int) -> list[Utterance]:
    """Return `count` utterances spread evenly over a list, or all if there are fewer or `count` is 0."""
    if not 0 < count < len(utterances):
        return utterances
    return [utterances[number * len(utterances) // count] for number in range(count)]


if __name__ == "__main__":
    run_main(main)
