"""The verb `check`."""

import argparse
from pathlib import Path

from wenet_fusion_runtime.audio.reader import load_audio

from wenet_fusion.cli.arguments import Verb, print_notes, print_skipped
from wenet_fusion.evaluation.streaming_laws import BOUND, check_model
from wenet_fusion.recipe import check_data, read_recipe
from wenet_fusion.trained_model import load_trained


def add(verb: Verb) -> None:
    """Add the verb to the command."""
    p = verb(
        "check",
        check,
        "Check that a checkpoint gives the same result streamed and offline, or that training can use a data.list.",
        [
            "model exp/avg_3.pt",
            "data data/train/data.list --config conf/train.yaml",
        ],
    )
    p.add_argument("what", choices=("model", "data"), help="model: check a checkpoint; data: check a data.list")
    p.add_argument("path", type=Path, help="checkpoint, or data.list")
    p.add_argument("--audio", type=Path, help="for a model: audio file to check on instead of noise")
    p.add_argument("--config", type=Path, help="for data: YAML file of the training configuration")
    p.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="for data: configuration values that replace those of the file",
    )


def check(args: argparse.Namespace) -> int:
    """Run the verb and return the exit status: 1 if a law fails or an utterance cannot be used."""
    if args.what == "data":
        if args.config is None:
            args.usage_error("check data needs --config: its tokenizer and front-end decide what is usable")
        report = check_data(read_recipe(args.config, args.overrides), args.path)
        print(f"{args.path}: {report.utterances} utterances, {report.hours:.2f} h usable; {len(report.skipped)} not")
        print_notes(report.notes)
        print_skipped(report.skipped)
        return 1 if report.skipped else 0
    trained = load_trained(args.path)
    rate = trained.config.model.frontend.sample_rate
    samples = load_audio(args.audio, rate) if args.audio else None
    checks = check_model(trained, samples)
    for item in checks:
        print(f"{'holds' if item.holds else 'FAILS':6} {item.chunking:>6}  {item.difference:8.1e}  {item.law}")
    failed = sum(not item.holds for item in checks)
    print(f"{len(checks) - failed} of {len(checks)} hold (float64, largest relative difference at most {BOUND:.0e})")
    return 1 if failed else 0
