#!/usr/bin/env python3
"""Compute mean and variance of the features of training data, with the front-end of the model. Write them as a
global_cmvn file in WeNet's JSON format. data.data_type of the configuration is the type of the list.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from list_sample import sample_utterances
from wenet_fusion_runtime.console import HelpFormatter, run_main
from wenet_fusion_runtime.files import list_problems, write_text

from wenet_fusion.data.judgement import Skip, too_many_skipped
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sources import read_samples
from wenet_fusion.model.asr_model import build_fbank
from wenet_fusion.model.frontend.cmvn import CmvnStatistics
from wenet_fusion.model.frontend.fbank import ENERGY_FLOOR
from wenet_fusion.recipe import read_recipe

DIGITAL_SILENCE = math.log(ENERGY_FLOOR) + 1e-3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="training configuration, with the front-end to use")
    parser.add_argument("--data", type=Path, required=True, help="list of the training set")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    parser.add_argument(
        "--max_utterances",
        type=int,
        default=0,
        help="largest number of utterances to use, spread over the list; 0: all. With data_type sequential, the first "
        "utterances of each shard are used",
    )
    parser.add_argument("overrides", nargs="*", help="key=value: configuration values that replace those of --config")
    args = parser.parse_intermixed_args(arguments)

    config = read_recipe(args.config, args.overrides)
    frontend = config.model.frontend
    data_type, settings = config.data.data_type, config.data.sequential
    # "auto" distinguishes raw lists from lists of shards by the first line.
    sample = sample_utterances(
        args.data, data_type if data_type in ("lhotse", "sequential") else "auto", settings, args.max_utterances
    )
    fbank = build_fbank(frontend)
    statistics, unreadable, used = CmvnStatistics(frontend.num_mel_bins), list[Skip](), 0
    for utterance in progress_bar(sample.utterances, sample.total, "cmvn", "utt"):
        if isinstance(utterance, Skip):
            unreadable.append(utterance)
            continue
        try:
            samples = torch.from_numpy(read_samples(utterance, frontend.sample_rate))
        except (ValueError, OSError) as error:
            unreadable.append(Skip(utterance.key, str(error), utterance.place))
            continue
        used += 1
        whole = samples[: len(samples) // fbank.hop_samples * fbank.hop_samples]
        features = fbank(whole.unsqueeze(0), fbank.init_state(1)).features_BTF[0]
        # Digital silence is not speech: its constant frames would only increase the variance.
        statistics.add(features[(features > DIGITAL_SILENCE).any(dim=1)])
    total = used + len(unreadable)
    if len(unreadable) > config.data.max_skipped * total:
        raise ValueError(too_many_skipped(unreadable, total, "utterances cannot be read", config.data.max_skipped))
    if unreadable:
        print(f"skipped {len(unreadable)} utterances:\n{list_problems(list(map(str, unreadable)))}", file=sys.stderr)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.output, statistics.to_json())
    print(f"{args.output}: {statistics.count} frames of {used} utterances, {len(unreadable)} skipped")
    return 0


if __name__ == "__main__":
    run_main(main)
