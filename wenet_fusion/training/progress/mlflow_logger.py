"""Log a run to MLflow."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from wenet_fusion_runtime.console import unusable_package
from wenet_fusion_runtime.files import write_text

from wenet_fusion.training.progress.logger_protocol import Sample, epoch_curves, finite, samples_table, step_curves

_MISSING = "training.loggers: mlflow needs the package mlflow: pip install 'wenet-fusion[mlflow]', or leave it out"
_MOST_METRICS = 1000  # MLflow's limit per call


class MlflowLogger:
    """Write numbers to MLflow: to the server MLFLOW_TRACKING_URI, or by default to the folder `mlruns` in `model_dir`.

    A resumed training continues its MLflow run; the file `mlflow_run.txt` holds the run's id. MLFLOW_EXPERIMENT_NAME
    names the experiment (default: wenet_fusion).

    Args:
        model_dir: folder of the training.
        config_yaml: configuration of the training.

    Raises:
        ImportError: mlflow is not installed.

    >>> [name for name in vars(MlflowLogger) if not name.startswith("_")]
    ['step', 'epoch', 'details', 'close']
    >>> MlflowLogger(Path("exp/run1"), "seed: 0").step(1, 0, {"loss": 9.7})  # doctest: +SKIP
    """

    def __init__(self, model_dir: Path, config_yaml: str) -> None:
        try:
            from mlflow.entities import Metric
            from mlflow.tracking import MlflowClient
        except Exception as error:
            raise unusable_package("mlflow", _MISSING, error) from error
        self._metric = Metric
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # recent versions refuse a folder without it
        where = os.environ.get("MLFLOW_TRACKING_URI") or (model_dir / "mlruns").resolve().as_uri()
        self._client = MlflowClient(where)
        id_file = model_dir / "mlflow_run.txt"
        if not id_file.exists():
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "wenet_fusion")
            experiment = self._client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else self._client.create_experiment(name)
            run = self._client.create_run(number, run_name=model_dir.name)
            self._client.log_text(run.info.run_id, config_yaml, "train.yaml")
            write_text(id_file, run.info.run_id + "\n")
        self._run = id_file.read_text(encoding="utf-8").strip()

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the numbers of an update."""
        self._write(step, step_curves(values))

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a validation on the dev set."""
        self._write(step, epoch_curves(values))

    def details(self, step: int, values: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Write statistics of layers, and hypotheses as a file."""
        self._write(step, values)
        self._client.log_text(self._run, samples_table(samples), f"samples/step_{step:06d}.md")

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(name, float(value), now, step) for name, value in finite(values).items()]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._run, metrics[start : start + _MOST_METRICS])
