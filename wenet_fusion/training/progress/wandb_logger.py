"""Log a run to Weights & Biases."""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from wenet_fusion_runtime.console import unusable_package
from wenet_fusion_runtime.files import write_text

from wenet_fusion.training.progress.logger_protocol import Sample, epoch_curves, finite, step_curves

_MISSING = "training.loggers: wandb needs the package wandb: pip install 'wenet-fusion[wandb]', or leave it out"


class WandbLogger:
    """Write numbers to Weights & Biases; wandb's environment variables choose project, mode and server.

    A resumed training continues its wandb run; the file `wandb_run.txt` holds the run's id.

    Args:
        model_dir: folder of the training.
        config_yaml: configuration of the training.

    Raises:
        ImportError: wandb is not installed.

    >>> [name for name in vars(WandbLogger) if not name.startswith("_")]
    ['step', 'epoch', 'details', 'close']
    >>> WandbLogger(Path("exp/run1"), "seed: 0").step(1, 0, {"loss": 9.7})  # doctest: +SKIP
    """

    def __init__(self, model_dir: Path, config_yaml: str) -> None:
        try:
            import wandb
        except Exception as error:
            raise unusable_package("wandb", _MISSING, error) from error
        self._wandb = wandb
        id_file = model_dir / "wandb_run.txt"
        if not id_file.exists():
            write_text(id_file, uuid.uuid4().hex[:16] + "\n")
        run_id = id_file.read_text(encoding="utf-8").strip()
        config = yaml.safe_load(config_yaml)
        self._run = wandb.init(dir=str(model_dir), id=run_id, name=model_dir.name, resume="allow", config=config)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")  # wandb's own step cannot go back after a resume

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the numbers of an update."""
        self._run.log({"step": step, "epoch": epoch, **finite(step_curves(values))})

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a validation on the dev set."""
        self._run.log({"step": step, "epoch": epoch, **finite(epoch_curves(values))})

    def details(self, step: int, values: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Write statistics of layers, and hypotheses as a table."""
        table = self._wandb.Table(columns=list(Sample._fields), data=[list(sample) for sample in samples])
        self._run.log({"step": step, "dev/samples": table, **finite(values)})

    def close(self) -> None:
        """Write pending numbers, and end the run."""
        self._run.finish()
