#!/usr/bin/env python3
"""Sums and square sums of the model's own features over a data.list: the global_cmvn file (WeNet's JSON format)."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from wenet_fusion.console import run_main
from wenet_fusion.data.manifest import read_manifest
from wenet_fusion.data.sources import read_samples
from wenet_fusion.files import write_text
from wenet_fusion.nn.cmvn import CmvnStatistics
from wenet_fusion.nn.fbank import ENERGY_FLOOR, Fbank
from wenet_fusion.recipe import read_recipe

DIGITAL_SILENCE = math.log(ENERGY_FLOOR) + 1e-3


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="training configuration; its front-end is used")
    parser.add_argument("--data", type=Path, required=True, help="data.list of the training set")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    parser.add_argument("--max_utterances", type=int, default=0, help="an even sample of at most so many; 0: all")
    parser.add_argument("overrides", nargs="*", help="configuration values, key=value")
    args = parser.parse_args(arguments)

    config = read_recipe(args.config, args.overrides)
    frontend = config.model.frontend
    utterances = read_manifest(args.data, config.data.data_type)
    if args.max_utterances > 0:
        utterances = utterances[:: -(-len(utterances) // args.max_utterances)]
    fbank = Fbank(
        frontend.sample_rate, frontend.num_mel_bins, frontend.window_ms, frontend.hop_ms, frontend.low_freq, frontend.high_freq
    )
    statistics, unreadable = CmvnStatistics(frontend.num_mel_bins), []
    for utterance in tqdm(utterances, desc="cmvn", unit="utt"):
        try:
            samples = torch.from_numpy(read_samples(utterance, frontend.sample_rate))
        except (ValueError, OSError) as error:
            unreadable.append(str(error))
            continue
        whole = samples[: len(samples) // fbank.hop_samples * fbank.hop_samples]
        features = fbank(whole.unsqueeze(0), fbank.init_state(1)).features_BTF[0]
        # Digital silence is a constant of the file format, not of speech: its frames would only widen the variance.
        statistics.add(features[(features > DIGITAL_SILENCE).any(dim=1)])
    for message in unreadable[:10]:
        print(f"skipped: {message}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.output, statistics.to_json())
    print(f"{args.output}: {statistics.count} frames of {len(utterances) - len(unreadable)} utterances, {len(unreadable)} skipped")
    return 0


if __name__ == "__main__":
    run_main(main)
