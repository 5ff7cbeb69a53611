"""The verb `train`."""

import argparse
from pathlib import Path

from wenet_fusion_runtime.files import write_text

from wenet_fusion.cli.arguments import Verb, device, print_notes, print_skipped
from wenet_fusion.recipe import build_trainer, read_recipe


def add(verb: Verb) -> None:
    """Add the verb to the command."""
    p = verb(
        "train",
        train,
        "Train a model, or resume an interrupted run in the same --model_dir.",
        [
            "--config conf/train.yaml --train_data data/train/data.list --dev_data data/dev/data.list --model_dir exp",
            "--config train.yaml --train_data train.list --dev_data dev.list --model_dir exp training.max_steps=100",
        ],
    )
    p.add_argument("--config", type=Path, required=True, help="YAML file of the configuration")
    p.add_argument(
        "--train_data",
        type=Path,
        required=True,
        help="list of training utterances (data.list), from tools/data/make_raw_list.py",
    )
    p.add_argument("--dev_data", type=Path, required=True, help="list of utterances to validate on (data.list)")
    p.add_argument("--model_dir", type=Path, required=True, help="folder for checkpoints, logs and TensorBoard files")
    p.add_argument("--device", default="auto", help="device to train on: auto, cpu, cuda, cuda:1, ...")
    p.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="override values of the YAML configuration, such as training.max_steps=100",
    )


def train(args: argparse.Namespace) -> int:
    """Run the verb and return the exit status."""
    config = read_recipe(args.config, args.overrides)
    args.model_dir.mkdir(parents=True, exist_ok=True)
    trainer = build_trainer(config, args.train_data, args.dev_data, args.model_dir, device(args.device))
    datasets = {"training": trainer.train_data, "dev": trainer.dev_data}
    for name, dataset in datasets.items():
        report = dataset.report()
        print(f"{name}: {report.utterances} utterances, {report.hours:.2f} h, {len(report.skipped)} skipped")
        print_notes(report.notes)
        print_skipped(report.skipped)
    printed = {name: len(dataset.skipped) for name, dataset in datasets.items()}
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(f"model: {parameters / 1e6:.2f} M parameters on {trainer.device}")
    write_text(args.model_dir / "train.yaml", trainer.fingerprint.config_yaml)
    trainer.run()
    for name, dataset in datasets.items():
        print_skipped(dataset.skipped[printed[name] :])
    skipped = sum(len(dataset.skipped) for dataset in datasets.values())
    print(
        f"{args.model_dir}: trained to step {trainer.step}, {trainer.skipped_steps} updates skipped, "
        f"{skipped} utterances skipped"
    )
    return 0
