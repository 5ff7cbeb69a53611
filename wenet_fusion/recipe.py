"""The whole configuration of a training run, and functions that build the run's parts from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from wenet_fusion.config import load_config, to_yaml
from wenet_fusion.data.augmentation.feature_masks import SpecAugmentConfig
from wenet_fusion.data.augmentation.waveforms import Augmentation
from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.data.filters import Filters
from wenet_fusion.data.judgement import FrontendGeometry
from wenet_fusion.data.lists.manifest import read_table
from wenet_fusion.data.sequential.sequential_dataset import SequentialDataset, SkipLimits, read_into_memory
from wenet_fusion.data.sequential.shard_list import SequentialConfig, read_shards
from wenet_fusion.data.sources import Utterance
from wenet_fusion.model.asr_model import AsrModel, ModelConfig
from wenet_fusion.ranks import Placement
from wenet_fusion.text.tokenizer import Tokenizer, TokenizerConfig, build_tokenizer
from wenet_fusion.training.state.checkpoint import STATE_NAME, load_model
from wenet_fusion.training.state.fingerprint import RunFingerprint
from wenet_fusion.training.state.initialisation import (
    NO_ORIGIN,
    NewTokens,
    describe_transfer,
    read_origin,
    transfer_weights,
)
from wenet_fusion.training.trainer import Trainer
from wenet_fusion.training.training_config import TrainingConfig

DataType = Literal["raw", "shard", "lhotse", "sequential"]


@dataclass(frozen=True)
class DataConfig:
    """List format, feature statistics, filters and augmentation of the training data.

    >>> DataConfig(max_skipped=0.05).data_type
    'raw'
    """

    data_type: DataType = "raw"  # format of the training and dev lists; sequential: shards without an index
    cmvn: str = ""  # global_cmvn file that normalises the features; empty: none
    max_skipped: float = 0.01  # training stops if a larger share of the utterances is unusable
    sequential: SequentialConfig = field(default_factory=SequentialConfig)  # settings of data_type: sequential
    filters: Filters = field(default_factory=Filters)  # limits beyond which training leaves utterances out
    augmentation: Augmentation = field(default_factory=Augmentation)  # random changes to waveforms
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)  # random changes to features


@dataclass(frozen=True)
class RecipeConfig:
    """The settings of a training run; relative paths are relative to the working directory.

    >>> RecipeConfig(TokenizerConfig(units="units.txt")).model.encoder.layers
    12
    """

    tokenizer: TokenizerConfig  # vocabulary
    seed: int = 0  # seed of every random draw
    data: DataConfig = field(default_factory=DataConfig)  # list format, feature statistics, augmentation
    model: ModelConfig = field(default_factory=ModelConfig)  # network and loss
    training: TrainingConfig = field(default_factory=TrainingConfig)  # length, batches, schedule

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        return [f"seed: {self.seed} must be at least 0"] if self.seed < 0 else []


def read_recipe(path: Path, overrides: list[str]) -> RecipeConfig:
    """Read a configuration file; each of `overrides` is "dotted.key=value".

    Raises:
        ConfigError: with every problem of the file and the overrides.
    """
    return load_config(RecipeConfig, path, overrides)


def build_dataset(
    config: RecipeConfig,
    data_list: Path,
    tokenizer: Tokenizer,
    augmented: bool,
    data_type: DataType | Literal["auto"] = "auto",
    max_skipped: float | None = None,
) -> SpeechDataset:
    """Build the dataset of a data list.

    Args:
        config: the whole configuration.
        data_list: raw list, list of shards, or lhotse's cuts.
        tokenizer: encodes the transcripts.
        augmented: change waveforms at random and apply the filters, as for training.
        data_type: format of the list; "auto" looks at its name and first line. With "sequential", all shards are read
            into memory.
        max_skipped: largest share of unusable utterances; None: the configuration's.

    Raises:
        ValueError, OSError: a file is missing, the list is malformed, or too much of its audio is unusable.
    """
    augmentation = config.data.augmentation if augmented else None
    share = config.data.max_skipped if max_skipped is None else max_skipped
    filters, settings = config.data.filters, config.data.sequential
    table: Sequence[Utterance]
    if data_type == "sequential":
        table = read_into_memory(read_shards(data_list, settings), settings.retries)
    else:
        table = read_table(data_list, data_type)
    return SpeechDataset(
        table, tokenizer, frontend_geometry(config), augmentation, config.seed, share, filters, not augmented
    )


def build_source(config: RecipeConfig, data_list: Path, tokenizer: Tokenizer) -> SpeechDataset | SequentialDataset:
    """Build the training data from a data list of the configured type.

    Raises:
        ValueError, OSError: a file is missing, the list is malformed, or too much of its audio is unusable.
    """
    data = config.data
    if data.data_type != "sequential":
        return build_dataset(config, data_list, tokenizer, augmented=True, data_type=data.data_type)
    shards = read_shards(data_list, data.sequential)
    limits = SkipLimits(data.max_skipped, data.filters)
    return SequentialDataset(
        shards, tokenizer, frontend_geometry(config), data.sequential, data.augmentation, config.seed, limits
    )


def frontend_geometry(config: RecipeConfig) -> FrontendGeometry:
    """Return the sizes of the front-end that decide whether audio is usable."""
    frontend = config.model.frontend
    return FrontendGeometry(frontend.sample_rate, frontend.frame_samples, frontend.right_padding_samples)


def build_trainer(
    config: RecipeConfig,
    train_list: Path,
    dev_list: Path,
    model_dir: Path,
    placement: Placement,
    init_from: Path | None = None,
    new_tokens: NewTokens = "mean",
) -> Trainer:
    """Build a trainer that starts a run in the folder `model_dir`, or resumes the run that the folder holds.

    Args:
        config: the whole configuration.
        train_list, dev_list: data lists.
        model_dir: an existing folder.
        placement: the device, and the ranks that train together.
        init_from: a model checkpoint whose weights a new run starts from; for a resumed run it must be the same one.
        new_tokens: weights of tokens that the checkpoint lacks: the "mean" of its tokens' weights, or "fresh" ones.

    Raises:
        ValueError, OSError: a file is missing or malformed, or the folder holds another run.
    """
    _check_files(config)
    tokenizer = build_tokenizer(config.tokenizer, Path())
    train = build_source(config, train_list, tokenizer)
    dev = build_dataset(config, dev_list, tokenizer, augmented=False, data_type=config.data.data_type)
    torch.manual_seed(config.seed)
    model = AsrModel(config.model, len(tokenizer.vocabulary))
    if config.data.cmvn:
        model.cmvn.load(Path(config.data.cmvn))
    tokens, bpe_model = tokenizer.vocabulary.tokens, tokenizer.model_bytes
    if init_from is not None and not (model_dir / STATE_NAME).exists():
        transfer = transfer_weights(model, tokens, load_model(init_from), str(init_from), new_tokens)
        if placement.ranks.is_first:
            print(describe_transfer(transfer, str(init_from), new_tokens))
    if placement.ranks.rank:  # each rank has the same weights, but its own dropout
        torch.manual_seed(config.seed + placement.ranks.rank)
    fingerprint = RunFingerprint(
        to_yaml(config),
        tokens,
        bpe_model,
        config.seed,
        train.digest,
        train.contents,
        dev.contents,
        defaults_yaml=to_yaml(RecipeConfig(TokenizerConfig(units=""))),
        origin=NO_ORIGIN if init_from is None else read_origin(init_from),
    )
    return Trainer(model, train, dev, config.training, config.data.spec_augment, fingerprint, model_dir, placement)


def _check_files(config: RecipeConfig) -> None:
    """Raise FileNotFoundError, before lists are read, if a file that the configuration names is missing."""
    for key, path, command in (
        ("data.cmvn", config.data.cmvn, "tools/data/compute_cmvn_stats.py"),
        ("training.dev_ctm", config.training.dev_ctm, "wenet-fusion align"),
    ):
        if path and not Path(path).is_file():
            raise FileNotFoundError(f"{key}: there is no file {path}; write it with {command}, or leave {key} out")
