"""The verb `check`."""

import argparse
from pathlib import Path

from wenet_fusion_runtime.audio.reader import load_audio
from wenet_fusion_runtime.files import write_text

from wenet_fusion.cli.arguments import Verb, print_notes, print_skipped
from wenet_fusion.evaluation.data_check import check_data, format_histogram
from wenet_fusion.evaluation.data_pictures import draw_distributions
from wenet_fusion.evaluation.streaming_laws import BOUND, check_model
from wenet_fusion.migration.rules import MigrationOptions
from wenet_fusion.migration.translation import table_of, translate
from wenet_fusion.migration.wenet_file import read_wenet
from wenet_fusion.recipe import read_recipe
from wenet_fusion.trained_model import load_trained


def add(verb: Verb) -> None:
    """Add the verb to the command."""
    p = verb(
        "check",
        check,
        "Check that a checkpoint gives the same result streamed and offline, that training can use a data.list, or "
        "that a configuration is valid; translate WeNet's configurations.",
        [
            "model exp/avg_3.pt",
            "data data/train/data.list --config conf/train.yaml",
            "data data/train/data.list --config conf/train.yaml --decode 1000 --png data/train/histograms.png",
            "data data/train/data.list --config conf/train.yaml --output data/train/unusable.txt",
            "config wenet/conf/train_u2++_conformer.yaml --output conf/train.yaml",
        ],
    )
    p.add_argument(
        "what",
        choices=("model", "data", "config"),
        help="model: check a checkpoint; data: check a data.list; config: check a YAML file, ours or WeNet's",
    )
    p.add_argument("path", type=Path, help="checkpoint, data.list or YAML file")
    p.add_argument("--audio", type=Path, help="for a model: audio file, whose beginning is used instead of noise")
    p.add_argument("--config", type=Path, help="for data: YAML file of the training configuration")
    p.add_argument(
        "--decode",
        type=_decode,
        metavar="all|N|none",
        help="for data: decode all utterances (default), N of them, or none; missing audio files are always reported",
    )
    p.add_argument("--png", type=Path, help="for data: picture of the histograms to write; needs matplotlib")
    p.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="for data and config: configuration values that replace those of the file",
    )
    p.add_argument(
        "--output",
        type=Path,
        help="for WeNet's YAML: file to write the translation to; for data: file to list all unusable utterances in",
    )
    p.add_argument(
        "--encoder",
        choices=("conformer", "fusionformer"),
        default="conformer",
        help="for WeNet's YAML: keep its Conformer, or replace it by our FusionFormer of the same size",
    )
    p.add_argument(
        "--utterances",
        type=int,
        default=0,
        help="for WeNet's YAML: number of training utterances, to turn epochs into updates",
    )
    p.add_argument(
        "--hours",
        type=float,
        default=0.0,
        help="for WeNet's YAML with dynamic batches: hours of training audio, to turn epochs into updates",
    )
    p.add_argument(
        "--num_gpus",
        type=int,
        default=1,
        help="for WeNet's YAML: number of processes that will train, to turn epochs into updates",
    )


def check(args: argparse.Namespace) -> int:
    """Run the verb and return the exit status: 1 if a law of streaming fails or an utterance cannot be used."""
    if args.what == "config":
        _check_config(args)
        return 0
    if args.what == "data":
        if args.config is None:
            args.usage_error("check data needs --config: its tokenizer and front-end decide what is usable")
        return _check_data(args)
    trained = load_trained(args.path)
    rate = trained.config.model.frontend.sample_rate
    samples = load_audio(args.audio, rate) if args.audio else None
    checks = check_model(trained, samples)
    for item in checks:
        print(f"{'holds' if item.holds else 'FAILS':6} {item.chunking:>6}  {item.difference:8.1e}  {item.law}")
    failed = sum(not item.holds for item in checks)
    print(f"{len(checks) - failed} of {len(checks)} hold (float64, largest relative difference at most {BOUND:.0e})")
    return 1 if failed else 0


def _check_config(args: argparse.Namespace) -> None:
    """Check a configuration of this project, or translate one of WeNet's.

    Raises:
        ConfigError: with every problem of the file.
        ValueError: --output names the file to translate.
    """
    file = read_wenet(args.path)
    if file is None:
        read_recipe(args.path, args.overrides)
        print(f"{args.path}: a valid configuration of wenet-fusion; nothing to translate")
        return
    if args.output is not None and args.output.resolve() == args.path.resolve():
        raise ValueError(f"--output {args.output} is the file to translate: give another name")
    options = MigrationOptions(args.encoder, args.utterances, args.hours, args.num_gpus)
    translation = translate(file, options, args.overrides)
    print(table_of(translation.rows))
    print(f"{args.path}: {translation.summary()}")
    if args.output is None:
        print("--output FILE writes our configuration")
        return
    write_text(args.output, translation.yaml(str(args.path)))
    read_recipe(args.output, [])
    print(f"{args.output}: our configuration; docs/from_wenet.md has the next steps")


def _check_data(args: argparse.Namespace) -> int:
    report = check_data(read_recipe(args.config, args.overrides), args.path, args.decode)
    unusable = len(report.skipped) + len(report.problems)
    print(f"{args.path}: {report.utterances} utterances, {report.hours:.2f} h usable; {unusable} unusable")
    print("\n".join([*report.facts, *map(format_histogram, report.distributions)]))
    print_notes(report.notes)
    print_skipped([*report.problems, *report.skipped])
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.output, "".join(f"{reason}\n" for reason in [*report.problems, *report.skipped]))
    if args.png and report.distributions:
        args.png.parent.mkdir(parents=True, exist_ok=True)
        draw_distributions(report.distributions, args.png)
    return 1 if unusable else 0


def _decode(text: str) -> int | None:
    """Return the number of utterances to decode; None for all. Raises ArgumentTypeError."""
    if text in ("all", "none"):
        return None if text == "all" else 0
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not all, none or a number of utterances")
    return int(text)
