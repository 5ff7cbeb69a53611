"""The settings of a comparison (configurations and sizes of the encoder, learning rates, warm-ups), and its runs."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from wenet_fusion.config import load_config
from wenet_fusion.evaluation.options import ALL_MODES
from wenet_fusion.recipe import RecipeConfig, read_recipe
from wenet_fusion.training.training_config import TrainingConfig

Measure = Literal["wer", "loss"]  # error rate or loss on dev


@dataclass(frozen=True)
class Configuration:
    """An encoder in the comparison.

    >>> Configuration("plain", "no_norms", 1, ("none", "swish", "glu", "rel_pos")).overrides[0]
    'model.encoder.norm=none'
    """

    name: str  # name in tables
    folder: str
    priority: int  # runs with a lower number come first
    settings: tuple[str, str, str, str]  # norm, activation, conv_gate, positions

    @property
    def overrides(self) -> tuple[str, ...]:
        """The overrides that turn a recipe's encoder into this one."""
        names = ("norm", "activation", "conv_gate", "positions")
        return tuple(f"model.encoder.{name}={value}" for name, value in zip(names, self.settings))


BASELINE = Configuration("LayerNorm Conformer", "layer_norm", 0, ("layer", "swish", "glu", "rel_pos"))
OURS = Configuration("FusionFormer", "fusionformer", 0, ("fusion", "relu", "none", "bias"))
# The baseline; two encoders that diverge according to the FusionFormer paper; then, one change at a time, FusionFormer.
CONFIGURATIONS = (
    BASELINE,
    Configuration("norms removed", "no_norms", 1, ("none", "swish", "glu", "rel_pos")),
    Configuration("BatchNorm in LayerNorm's places", "batch_norm_in_place", 1, ("batch", "swish", "glu", "rel_pos")),
    Configuration("BatchNorm appended to each layer", "batch_norm_appended", 2, ("fusion", "swish", "glu", "rel_pos")),
    Configuration(
        "BatchNorm appended, ReLU instead of Swish and GLU", "batch_norm_relu", 2, ("fusion", "relu", "none", "rel_pos")
    ),
    OURS,
)


@dataclass(frozen=True)
class Size:
    """A size of the encoder, given as overrides of the recipe.

    >>> Size("deep", ("model.encoder.layers=12",)).seeds_of_others is None
    True
    """

    name: str
    overrides: tuple[str, ...] = ()
    seeds_of_others: int | None = None  # number of seeds, except for FusionFormer and the baseline; null: all seeds


@dataclass(frozen=True)
class Study:
    """The settings of a comparison, read from conf/comparison.yaml.

    >>> Study(sizes=(Size("recipe"),), rates=(1e-3, 2e-3)).problems()
    ['rates: 2 are too few to find the best one between them: give four or more']
    """

    sizes: tuple[Size, ...]
    rates: tuple[float, ...] = (0.001, 0.002, 0.0005, 0.004)  # peak learning rates, in the order in which they run
    warmups: tuple[int, ...] = (100, 300)  # updates; the first is tried with all rates, the others with the best rate
    most_extensions: int = 3  # maximum number of rates that are added beyond each edge of the grid
    choosing_seed: int = 0  # seed of the runs that choose rate and warm-up
    choosing_updates: int | None = None  # length of these runs, to which their schedule is scaled; null: the recipe's
    choose_by: Measure = "wer"  # dev measure by which they are compared; loss suits runs too short for words
    seeds: tuple[int, ...] = (0, 1, 2)  # seeds of the runs that are compared
    equal_time: bool = True  # also compare at equal processor time
    train_config: str = "conf/train.yaml"  # configuration of the training
    modes: tuple[str, ...] = ALL_MODES  # searches to evaluate
    chunkings: tuple[str, ...] = ("full", "16/4", "8/8")  # chunkings to evaluate
    typical_seconds: float = 3.0  # duration of a typical utterance, for the time of an update
    most_errors: float = 0.9  # word error rate on dev above which a run counts as diverged

    def problems(self) -> list[str]:
        """Return a message about each wrong value."""
        found = []
        if not self.sizes:
            found.append("sizes: give one or more")
        if len({size.name for size in self.sizes}) < len(self.sizes):
            found.append("sizes: two have the same name")
        if len(set(self.rates)) < 4:
            count = len(set(self.rates))
            found.append(f"rates: {count} are too few to find the best one between them: give four or more")
        if min(self.rates, default=1.0) <= 0:
            found.append("rates: must be above 0")
        if self.choosing_updates is not None and self.choosing_updates < 1:
            found.append(f"choosing_updates: {self.choosing_updates} must be at least 1")
        if not self.warmups or not self.seeds:
            found.append("warmups and seeds: give one or more")
        return found

    def size(self, name: str) -> Size:
        """Return the size with this name."""
        return next(size for size in self.sizes if size.name == name)

    def seeds_of(self, size: Size, configuration: Configuration) -> tuple[int, ...]:
        """Return the seeds of the compared runs of a configuration."""
        if configuration in (BASELINE, OURS):
            return self.seeds
        return self.seeds[: size.seeds_of_others]


def read_study(path: Path) -> Study:
    """Read the YAML file of a comparison. Raises ConfigError, which lists every problem."""
    return load_config(Study, path)


class RunSpec(NamedTuple):
    """One training."""

    size: str
    configuration: Configuration
    rate: float
    warmup: int  # updates of the warm-up in a run of the recipe's length; `warmup_of` scales it to other lengths
    seed: int
    updates: int

    @property
    def folder(self) -> Path:
        """The folder of the run, relative to the comparison's folder."""
        settings = f"rate{self.rate:g}_warmup{self.warmup}_seed{self.seed}_updates{self.updates}"
        return Path(self.size) / self.configuration.folder / settings

    @property
    def label(self) -> str:
        """A description of the run."""
        settings = f"rate {self.rate:g}, warm-up {self.warmup}, seed {self.seed}, {self.updates} updates"
        return f"{self.size}, {self.configuration.name}, {settings}"


class Task(NamedTuple):
    """A task: "time" times all configurations of a size; "train" and "evaluate" refer to a run."""

    kind: Literal["time", "train", "evaluate"]
    size: str
    run: RunSpec | None = None

    @property
    def label(self) -> str:
        """A description of the task."""
        if self.run is None:
            return f"{self.size}: time of an update and of a streaming step, all configurations by turns"
        return self.run.label if self.kind == "train" else f"{self.run.label}: evaluation"


def run_overrides(study: Study, run: RunSpec, data_dir: Path) -> list[str]:
    """Return the overrides of the recipe's configuration for a run.

    Only the last checkpoint is kept, because a comparison has many runs.
    """
    return [
        *encoder_overrides(study, run.size, run.configuration),
        *([f"data.cmvn={cmvn}"] if (cmvn := data_dir / "train" / "global_cmvn").exists() else []),
        f"tokenizer.units={data_dir / 'lang' / 'units.txt'}",
        *(
            ["tokenizer.kind=bpe", f"tokenizer.bpe_model={bpe}"]
            if (bpe := data_dir / "lang" / "bpe.model").exists()
            else []
        ),
        f"seed={run.seed}",
        f"training.max_steps={run.updates}",
        f"training.optim.learning_rate={run.rate:g}",
        f"training.optim.warmup_steps={warmup_of(study, run)}",
        f"training.frozen_statistics_steps={frozen_updates_of(study, run)}",
        "training.keep_checkpoints=1",
        "training.loggers=[]",
    ]


def encoder_overrides(study: Study, size: str, configuration: Configuration) -> list[str]:
    """Return the overrides that turn the recipe's model into that of a size and a configuration."""
    return [*study.size(size).overrides, *configuration.overrides]


def recipe_of(study: Study, size: str, configuration: Configuration, data_dir: Path) -> RecipeConfig:
    """Return the training configuration of a size and a configuration, with the recipe's schedule."""
    units = f"tokenizer.units={data_dir / 'lang' / 'units.txt'}"
    return read_recipe(Path(study.train_config), [*encoder_overrides(study, size, configuration), units])


def equal_updates(study: Study, size: str) -> int:
    """Return the number of updates at which all configurations are compared: the recipe's."""
    return _training_of(study.train_config, study.size(size).overrides).max_steps


def choosing_updates(study: Study, size: str) -> int:
    """Return the number of updates of the runs for choosing rate and warm-up."""
    return equal_updates(study, size) if study.choosing_updates is None else study.choosing_updates


def warmup_of(study: Study, run: RunSpec) -> int:
    """Return the updates of a run's warm-up. Their share of all updates is the same in every run."""
    return max(1, round(run.warmup * run.updates / equal_updates(study, run.size)))


def frozen_updates_of(study: Study, run: RunSpec) -> int:
    """Return the number of a run's last updates with constant BatchNorm statistics. Their share of all updates is the
    same in every run; -1 (all updates) remains -1.
    """
    frozen = _training_of(study.train_config, study.size(run.size).overrides).frozen_statistics_steps
    return frozen if frozen < 0 else round(frozen * run.updates / equal_updates(study, run.size))


def clip_norm_of(study: Study) -> float:
    """Return the norm to which the recipe clips gradients."""
    return _training_of(study.train_config, ()).optim.clip_norm


@lru_cache  # a plan calls it many times
def _training_of(train_config: str, overrides: tuple[str, ...]) -> TrainingConfig:
    return read_recipe(Path(train_config), [*overrides, "tokenizer.units=units.txt"]).training
