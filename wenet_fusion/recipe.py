"""A recipe's configuration and the functions that build its parts: the only place where the layers meet."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from wenet_fusion.config import config_from_yaml, load_config, to_yaml
from wenet_fusion.data.batching import epoch_batches
from wenet_fusion.data.dataset import Batch, DataReport, FrontendGeometry, Skip, SpeechDataset, iterate
from wenet_fusion.data.manifest import ListType, read_manifest
from wenet_fusion.data.transforms import Augmentation, SpecAugmentConfig
from wenet_fusion.model.asr_model import AsrModel, ModelConfig
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.text.tokenizer import Tokenizer, TokenizerConfig, build_tokenizer, restore_tokenizer
from wenet_fusion.training.averaging import average_checkpoints, reestimate_statistics
from wenet_fusion.training.checkpoint import ModelCheckpoint, load_model, load_weights
from wenet_fusion.training.fingerprint import RunFingerprint
from wenet_fusion.training.trainer import Trainer, TrainingConfig
from wenet_fusion.training.validation import validate


@dataclass(frozen=True)
class DataConfig:
    data_type: ListType = "raw"  # of the training and dev lists
    cmvn: str = ""  # global_cmvn file; empty: features are used as they are
    max_skipped: float = 0.01  # share of utterances that may be unusable before training refuses to start
    augmentation: Augmentation = field(default_factory=Augmentation)
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)


@dataclass(frozen=True)
class RecipeConfig:
    """Everything a training run depends on, except the data itself. Relative paths start at the working directory."""

    tokenizer: TokenizerConfig
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def problems(self) -> list[str]:
        return [f"seed: {self.seed} must be at least 0"] if self.seed < 0 else []


def read_recipe(path: Path, overrides: list[str]) -> RecipeConfig:
    """Raises ConfigError with every problem of the file and the overrides."""
    return load_config(RecipeConfig, path, overrides)


def build_dataset(
    config: RecipeConfig,
    data_list: Path,
    tokenizer: Tokenizer,
    augmented: bool,
    data_type: ListType | Literal["auto"] = "auto",
    max_skipped: float | None = None,
) -> SpeechDataset:
    """The utterances of a data.list as batches of samples and tokens; `max_skipped` None: the configuration's.

    Raises:
        ValueError: if the list or too much of its audio is unusable.
    """
    frontend = config.model.frontend
    geometry = FrontendGeometry(frontend.sample_rate, frontend.frame_samples, frontend.tail_samples)
    augmentation = config.data.augmentation if augmented else None
    share = config.data.max_skipped if max_skipped is None else max_skipped
    return SpeechDataset(read_manifest(data_list, data_type), tokenizer, geometry, augmentation, config.seed, share)


def check_data(config: RecipeConfig, data_list: Path) -> DataReport:
    """Report what training would use of a data list, and each other utterance with its reason.

    Raises:
        ValueError: if the list itself is malformed, or nothing in it usable; names lines or reasons.
    """
    tokenizer = build_tokenizer(config.tokenizer, Path())
    return build_dataset(config, data_list, tokenizer, True, config.data.data_type, max_skipped=1.0).report()


def build_trainer(
    config: RecipeConfig, train_list: Path, dev_list: Path, model_dir: Path, device: torch.device
) -> Trainer:
    """A trainer that starts, or resumes what `model_dir` holds."""
    tokenizer = build_tokenizer(config.tokenizer, Path())
    train = build_dataset(config, train_list, tokenizer, augmented=True, data_type=config.data.data_type)
    dev = build_dataset(config, dev_list, tokenizer, augmented=False, data_type=config.data.data_type)
    torch.manual_seed(config.seed)
    model = AsrModel(config.model, len(tokenizer.vocabulary))
    if config.data.cmvn:
        model.cmvn.load(Path(config.data.cmvn))
    units, bpe_model = tokenizer.vocabulary.tokens, tokenizer.model_bytes
    fingerprint = RunFingerprint(to_yaml(config), units, bpe_model, config.seed, train.digest)
    return Trainer(model, train, dev, config.training, config.data.spec_augment, fingerprint, model_dir, device)


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint brought back to life."""

    config: RecipeConfig
    tokenizer: Tokenizer
    model: AsrModel  # eval mode, on the CPU
    path: Path


def load_trained(path: Path) -> TrainedModel:
    """Rebuilds a model from its checkpoint, which needs no other file.

    Raises:
        ValueError, OSError: if the file is no model checkpoint or does not fit together.
    """
    return restore(load_model(path), path)


def restore(checkpoint: ModelCheckpoint, path: Path) -> TrainedModel:
    """Like `load_trained`, for a checkpoint in memory that came from `path`."""
    config = config_from_yaml(RecipeConfig, checkpoint.config_yaml, f"configuration inside {path}")
    tokenizer = restore_tokenizer(config.tokenizer, checkpoint.units, checkpoint.bpe_model, str(path))
    model = AsrModel(config.model, len(tokenizer.vocabulary))
    load_weights(model, checkpoint.weights, str(path))
    return TrainedModel(config, tokenizer, model.eval(), path)


class Averaged(NamedTuple):
    checkpoint: ModelCheckpoint
    skipped: list[Skip]  # utterances that the statistics had to do without


def average(paths: list[Path], train_list: Path, batches: int, device: torch.device) -> Averaged:
    """Averages checkpoints and gives the result statistics of its own, from `batches` batches of training data.

    Chunkings alternate between those that the model serves and full context, so the statistics suit each.

    Raises:
        ValueError, OSError: if a file is not what it should be, or `batches` is below 1.
    """
    if batches < 1:
        raise ValueError(f"--batches {batches}: statistics need at least 1 batch, 30 are usual")
    averaged = average_checkpoints(paths)
    trained = restore(averaged, paths[-1])
    dataset = build_dataset(trained.config, train_list, trained.tokenizer, augmented=True)
    reestimate_statistics(trained.model.to(device), estimation_batches(trained.config, dataset, batches), device)
    weights = {name: value.detach().cpu() for name, value in trained.model.state_dict().items()}
    return Averaged(replace(averaged, weights=weights), dataset.skipped)


class Measured(NamedTuple):
    checkpoint: ModelCheckpoint
    rate_name: str  # WER, or CER for languages without spaces
    skipped: list[Skip]


def measure(checkpoint: ModelCheckpoint, dev_list: Path, device: torch.device) -> Measured:
    """The same checkpoint with its loss and error rate on a data.list, measured as training does."""
    trained = restore(checkpoint, Path("checkpoint"))
    dataset = build_dataset(trained.config, dev_list, trained.tokenizer, augmented=False)
    training = trained.config.training
    model = trained.model.to(device)
    result = validate(model, dataset, training.chunking.served()[-1], training.max_batch_seconds, device)
    measured = replace(checkpoint, dev_loss=result.loss, dev_error_rate=result.errors.rate)
    return Measured(measured, result.rate_name, dataset.skipped)


def estimation_batches(config: RecipeConfig, dataset: SpeechDataset, count: int) -> Iterator[tuple[Batch, Chunking]]:
    """Up to `count` batches of one epoch, each with the next of the chunkings that the model is used with."""
    training = config.training
    plan = epoch_batches(dataset.seconds, training.max_batch_seconds, training.max_batch_rows, config.seed, epoch=0)
    chunkings = itertools.cycle([FULL_CONTEXT, *training.chunking.served()])
    yield from zip(iterate(dataset, plan[:count], epoch=0, num_workers=training.num_workers), chunkings)
