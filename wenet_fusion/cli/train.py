"""The verbs `train` and `average`."""

import argparse
from pathlib import Path

from wenet_fusion.cli.arguments import Verb, device, print_skipped
from wenet_fusion.recipe import build_trainer, read_recipe
from wenet_fusion.trained_model import average, measure
from wenet_fusion.training.averaging import choose_checkpoints
from wenet_fusion.training.checkpoint import load_model, save_model


def add(verb: Verb) -> None:
    """Add the verbs to the parser."""
    p = verb("train", train, "train a model, or go on where an interrupted run stopped")
    p.add_argument("--config", type=Path, required=True, help="YAML file")
    p.add_argument("--train_data", type=Path, required=True, help="data.list")
    p.add_argument("--dev_data", type=Path, required=True, help="data.list")
    p.add_argument("--model_dir", type=Path, required=True, help="where checkpoints, logs and TensorBoard files go")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="configuration values, such as training.max_steps=100"
    )

    p = verb("average", average_command, "average checkpoints and re-estimate their BatchNorm statistics")
    p.add_argument("--model_dir", type=Path, required=True, help="directory with step_*.pt")
    p.add_argument("--num", type=int, default=5, help="how many checkpoints")
    p.add_argument("--best", action="store_true", help="those with the lowest dev loss instead of the last ones")
    p.add_argument("--train_data", type=Path, required=True, help="data.list for the statistics")
    p.add_argument("--batches", type=int, default=30, help="batches for the statistics")
    p.add_argument("--dev_data", type=Path, help="data.list: keep the last checkpoint instead if it is better on this")
    p.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def train(args: argparse.Namespace) -> int:
    config = read_recipe(args.config, args.overrides)
    args.model_dir.mkdir(parents=True, exist_ok=True)
    trainer = build_trainer(config, args.train_data, args.dev_data, args.model_dir, device(args.device))
    datasets = {"training": trainer.train_data, "dev": trainer.dev_data}
    for name, dataset in datasets.items():
        print(f"{name}: {len(dataset)} utterances, {sum(dataset.seconds) / 3600:.2f} h, {len(dataset.skipped)} skipped")
        print_skipped(dataset.skipped)
    told = {name: len(dataset.skipped) for name, dataset in datasets.items()}
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(f"model: {parameters / 1e6:.2f} M parameters on {trainer.device}")
    (args.model_dir / "train.yaml").write_text(trainer.fingerprint.config_yaml)
    trainer.run()
    for name, dataset in datasets.items():
        print_skipped(dataset.skipped[told[name] :])
    skipped = sum(len(dataset.skipped) for dataset in datasets.values())
    print(
        f"{args.model_dir}: trained to step {trainer.step}, {trainer.skipped_steps} updates skipped, {skipped} utterances skipped"
    )
    return 0


def average_command(args: argparse.Namespace) -> int:
    paths = choose_checkpoints(args.model_dir, args.num, args.best)
    print(f"averaging {', '.join(path.name for path in paths)}")
    where = device(args.device)
    averaged = average(paths, args.train_data, args.batches, where)
    print_skipped(averaged.skipped)
    candidates = {f"average of {len(paths)}": averaged.checkpoint}
    if args.dev_data is not None:
        candidates[f"{paths[-1].name} alone"] = load_model(paths[-1])
        measured = {name: measure(checkpoint, args.dev_data, where) for name, checkpoint in candidates.items()}
        for name, (checkpoint, rate_name, skipped) in measured.items():
            candidates[name] = checkpoint
            print(
                f"{name}: dev {rate_name} {100 * checkpoint.dev_error_rate:.2f} %, dev loss {checkpoint.dev_loss:.3f}"
            )
        print_skipped(skipped)  # the same for each
    chosen = min(candidates, key=lambda name: (candidates[name].dev_error_rate, candidates[name].dev_loss))
    save_model(candidates[chosen], args.output)
    print(f"{args.output}: {chosen}")
    return 0
