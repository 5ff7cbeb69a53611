"""A recipe's configuration and the functions that build its parts: the only place where the layers meet."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from wenet_fusion.config import load_config, to_yaml
from wenet_fusion.data.dataset import DataReport, FrontendGeometry, SpeechDataset
from wenet_fusion.data.manifest import ListType, read_manifest
from wenet_fusion.data.transforms import Augmentation, SpecAugmentConfig
from wenet_fusion.model.asr_model import AsrModel, ModelConfig
from wenet_fusion.text.tokenizer import Tokenizer, TokenizerConfig, build_tokenizer
from wenet_fusion.training.fingerprint import RunFingerprint
from wenet_fusion.training.trainer import Trainer, TrainingConfig


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
