"""The verb `average`."""

import argparse
from pathlib import Path

from wenet_fusion.cli.arguments import Verb, print_skipped, rank_device
from wenet_fusion.ranks import Placement, joined_ranks, loss_as_error
from wenet_fusion.trained_model import average, measure
from wenet_fusion.training.state.averaging import choose_checkpoints
from wenet_fusion.training.state.checkpoint import ModelCheckpoint, load_model, save_model


def add(verb: Verb) -> None:
    """Add the verb to the command."""
    p = verb(
        "average",
        average_command,
        "Average the weights of checkpoints and re-estimate their BatchNorm statistics.",
        [
            "--model_dir exp --num 3 --train_data data/train/data.list --output exp/avg_3.pt",
            "--model_dir exp --best --train_data train.list --dev_data dev.list --output exp/avg_best.pt",
        ],
    )
    p.add_argument(
        "--model_dir", "--src_path", type=Path, required=True, help="folder of the training run, with step_*.pt"
    )
    p.add_argument("--num", type=int, default=5, help="number of checkpoints to average")
    p.add_argument(
        "--best",
        "--val_best",
        action="store_true",
        help="take the checkpoints with the lowest dev loss, not the last ones",
    )
    p.add_argument("--train_data", type=Path, required=True, help="data.list to estimate the statistics on")
    p.add_argument("--batches", type=int, default=30, help="number of batches to estimate the statistics on")
    p.add_argument(
        "--dev_data",
        type=Path,
        help="data.list to compare the average with the newest averaged checkpoint; the better of the two is written",
    )
    p.add_argument("--output", "--dst_model", type=Path, required=True, help="checkpoint to write")
    p.add_argument("--device", default="auto", help="device to compute on: auto, cpu, cuda, ...")


def average_command(args: argparse.Namespace) -> int:
    """Run the verb and return the exit status."""
    where = rank_device(args.device)
    with joined_ranks(where) as ranks, loss_as_error():
        checkpoint, name = _chosen(args, Placement(where, ranks))
        if ranks.is_first:
            save_model(checkpoint, args.output)
            print(f"{args.output}: {name}")
    return 0


def _chosen(args: argparse.Namespace, placement: Placement) -> tuple[ModelCheckpoint, str]:
    """Return a checkpoint and its description: the average, or its newest member if that is better on the dev data."""
    is_first = placement.ranks.is_first  # only the first rank prints
    paths = choose_checkpoints(args.model_dir, args.num, args.best)
    if is_first:
        print(f"averaging {', '.join(path.name for path in paths)}")
    averaged = average(paths, args.train_data, args.batches, placement)
    print_skipped(averaged.skipped if is_first else ())
    candidates = {f"average of {len(paths)}": averaged.checkpoint}
    if args.dev_data is not None:
        candidates[f"{paths[-1].name} alone"] = load_model(paths[-1])
        measured = {name: measure(checkpoint, args.dev_data, placement) for name, checkpoint in candidates.items()}
        for name, (checkpoint, rate_name, _) in measured.items():
            candidates[name] = checkpoint
            rate = f"dev {rate_name} {100 * checkpoint.dev_error_rate:.2f} %"
            if is_first:
                print(f"{name}: {rate}, dev loss {checkpoint.dev_loss:.3f}")
        print_skipped(next(iter(measured.values())).skipped if is_first else ())  # the same for each candidate
    best = min(candidates, key=lambda name: (candidates[name].dev_error_rate, candidates[name].dev_loss))
    return candidates[best], best
