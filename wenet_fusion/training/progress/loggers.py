"""Loggers of a run: the log file, TensorBoard, and loggers of other packages."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from wenet_fusion_runtime.console import error_text

from wenet_fusion.training.progress.logger_protocol import (
    Logger,
    LoggerName,
    Sample,
    epoch_curves,
    samples_table,
    step_curves,
)
from wenet_fusion.training.progress.mlflow_logger import MlflowLogger
from wenet_fusion.training.progress.run_log import RunLog
from wenet_fusion.training.progress.wandb_logger import WandbLogger


class TensorBoardLogger:
    """Write numbers for TensorBoard: train/NAME for updates, dev/NAME for validations.

    Args:
        folder: receives the event files.
        step: the step at which the run starts or resumes; events of later steps are hidden.

    >>> import tempfile
    >>> logger = TensorBoardLogger(Path(tempfile.mkdtemp()), step=0)
    >>> logger.step(1, 0, {"loss": 9.7})
    >>> logger.close()
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the numbers of an update."""
        self._write(step_curves(values), step)

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a validation on the dev set."""
        self._write(epoch_curves(values), step)

    def details(self, step: int, values: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Write statistics of layers, and hypotheses as text."""
        self._write(values, step)
        self._writer.add_text("dev/samples", samples_table(samples), step)

    def close(self) -> None:
        """Write pending events, and close the file."""
        self._writer.close()

    def _write(self, curves: Mapping[str, float], step: int) -> None:
        for name, value in curves.items():
            self._writer.add_scalar(name, value, step)


class Loggers:
    """Pass the numbers of a run to any number of loggers.

    An error of the first logger, in rank 0 the log file of the run, ends the run. If another logger fails, a warning is
    printed, and this logger gets no more numbers. So a tracking server that is down does not end a training.

    Args:
        loggers: the loggers; each gets all numbers.

    >>> Loggers([]).step(1, 0, {"loss": 9.7})
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = list(loggers)

    def add(self, logger: Logger) -> None:
        """Pass the numbers to one more logger."""
        self._loggers.append(logger)

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Pass on the numbers of an update."""
        self._each(lambda logger: logger.step(step, epoch, values))

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Pass on the numbers of a validation."""
        self._each(lambda logger: logger.epoch(step, epoch, values))

    def details(self, step: int, values: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Pass on the details of a validation."""
        self._each(lambda logger: logger.details(step, values, samples))

    def close(self) -> None:
        """Close all loggers."""
        self._each(lambda logger: logger.close())

    def _each(self, use: Callable[[Logger], None]) -> None:
        for logger in tuple(self._loggers):
            try:
                use(logger)
            except Exception as error:
                if logger is self._loggers[0]:
                    raise
                self._loggers.remove(logger)
                reason = f"{type(error).__name__}: {error_text(error)}"
                print(f"warning: {type(logger).__name__} failed and gets no more numbers ({reason})", file=sys.stderr)


def open_loggers(names: Sequence[LoggerName], model_dir: Path, step: int, config_yaml: str) -> Loggers:
    """Return the log of a run, train_log.jsonl, together with other loggers.

    Args:
        names: the other loggers.
        model_dir: folder of the run.
        step: the step at which the run starts or resumes.
        config_yaml: configuration of the run.

    Raises:
        ImportError: the package of a logger is not installed; the message says how to install it.
        ValueError: a logger cannot start, e.g. without a login or a server.
    """
    loggers: list[Logger] = [RunLog(model_dir / "train_log.jsonl", step)]
    for name in dict.fromkeys(names):
        try:
            if name == "tensorboard":
                loggers.append(TensorBoardLogger(model_dir / "tensorboard", step))
            else:
                loggers.append((WandbLogger if name == "wandb" else MlflowLogger)(model_dir, config_yaml))
        except (ImportError, OSError):
            raise
        except Exception as error:  # no login, no server: wandb and mlflow have errors of their own
            raise ValueError(f"training.loggers: {name} cannot start: {error_text(error)}; or leave it out") from error
    return Loggers(loggers)
