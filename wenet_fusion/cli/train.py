"""The verb `train`."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import torch
from tqdm import tqdm
from wenet_fusion_runtime.files import write_text

from wenet_fusion.cli.arguments import Verb, make_folder, print_notes, print_skipped, rank_device
from wenet_fusion.ranks import Placement, joined_ranks, loss_as_error
from wenet_fusion.recipe import build_trainer, read_recipe
from wenet_fusion.training.state.initialisation import NewTokens
from wenet_fusion.training.trainer import Trainer


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
        help="list of training utterances (data.list), e.g. from tools/data/make_raw_list.py",
    )
    p.add_argument(
        "--dev_data", "--cv_data", type=Path, required=True, help="list of utterances to validate on (data.list)"
    )
    p.add_argument("--model_dir", type=Path, required=True, help="folder for checkpoints, logs and TensorBoard files")
    p.add_argument(
        "--init_from",
        "--checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="model checkpoint to fine-tune: a new run starts from its weights; the vocabularies may differ",
    )
    p.add_argument(
        "--new_tokens",
        choices=get_args(NewTokens),
        default="mean",
        help="initial weights of tokens that --init_from lacks: mean of the other tokens, or fresh random weights",
    )
    p.add_argument("--device", default="auto", help="device to train on: auto, cpu, cuda, cuda:1, ...")
    p.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="override values of the YAML configuration, such as training.max_steps=100",
    )


def train(args: argparse.Namespace) -> int:
    """Run the verb and return the exit status: 143 if SIGTERM ended the run."""
    config = read_recipe(args.config, args.overrides)
    make_folder("--model_dir", args.model_dir)
    where = rank_device(args.device)
    with joined_ranks(where) as ranks, loss_as_error():
        placement = Placement(where, ranks)
        lists = args.train_data, args.dev_data
        trainer = build_trainer(config, *lists, args.model_dir, placement, args.init_from, args.new_tokens)
        if ranks.is_first:
            _describe(trainer)
            write_text(args.model_dir / "train.yaml", trainer.fingerprint.config_yaml)
        news = _News(trainer)
        trainer.log.add(news)
        with _sigterm_stops(trainer):
            trainer.run()
        news.step()
        if ranks.is_first:
            news.print_notes()
            _print_end(trainer)
    return 0 if trainer.step >= config.training.max_steps else 128 + signal.SIGTERM


@contextmanager
def _sigterm_stops(trainer: Trainer) -> Iterator[None]:
    """Save the state and end the run on SIGTERM, which schedulers send before they kill a job."""
    before = signal.signal(signal.SIGTERM, lambda *_: setattr(trainer, "stop_requested", True))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def bfloat16_instructions() -> list[str]:
    """Return the processor's instructions for products in bfloat16; if it has none, training in bfloat16 takes many
    times longer than in float32.
    """
    found = torch.cpu.get_capabilities()
    return [name for name in ("amx_bf16", "avx512_bf16", "bf16") if found.get(name)]


def _precision_notes(trainer: Trainer) -> list[str]:
    precision = trainer.config.precision
    if trainer.device.type != "cpu" or precision == "float32" or (precision == "bfloat16" and bfloat16_instructions()):
        return []
    return [
        f"updates in {precision} may take many times longer on this processor than in float32; "
        "set training.precision=float32"
    ]


def _describe(trainer: Trainer) -> None:
    for name, data in (("training", trainer.train_data), ("dev", trainer.dev_data)):
        print(f"{name}: {data.description()}")
        print_notes(data.notes())
        print_skipped(data.skipped)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    world = trainer.ranks.world
    ranks = "" if world == 1 else f", {world} ranks"
    print(f"model: {parameters / 1e6:.2f} M parameters on {trainer.device}{ranks}", flush=True)
    print_notes(_precision_notes(trainer))


class _News:
    """After each update, print the utterances that this rank skipped; at the end, print new notes."""

    def __init__(self, trainer: Trainer) -> None:
        self._datasets = (trainer.train_data, trainer.dev_data)
        datasets = self._datasets if trainer.ranks.is_first else ()  # only the first rank prints notes
        self._notes = {note for dataset in datasets for note in dataset.notes()}
        self._printed = [len(dataset.skipped) for dataset in self._datasets]

    def step(self, *_: object) -> None:
        """Print the utterances that were skipped since the last call."""
        for number, dataset in enumerate(self._datasets):
            if skips := dataset.skipped[self._printed[number] :]:
                with tqdm.external_write_mode(sys.stderr):
                    print_skipped(skips)
                self._printed[number] += len(skips)

    epoch = details = step

    def close(self, *_: object) -> None:
        """Do nothing; the protocol `Logger` requires this method."""

    def print_notes(self) -> None:
        """Print the notes that are new since the start."""
        print_notes([note for dataset in self._datasets for note in dataset.notes() if note not in self._notes])


def _print_end(trainer: Trainer) -> None:
    """Print the outcome of the run."""
    skipped = sum(len(dataset.skipped) for dataset in (trainer.train_data, trainer.dev_data))
    updates = f"{trainer.skipped_steps} update{'s' * (trainer.skipped_steps != 1)}"
    counts = f"{updates} skipped, {skipped} utterance{'s' * (skipped != 1)} skipped"
    if trainer.step >= trainer.config.max_steps:
        print(f"{trainer.model_dir}: trained to step {trainer.step}, {counts}")
    else:
        print(f"{trainer.model_dir}: stopped by SIGTERM at step {trainer.step}; the same command goes on from there")
