"""Loggers of the numbers of a run: one small interface, and TensorBoard behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch.utils.tensorboard import SummaryWriter


class Logger(Protocol):
    """Take the numbers of a run. Add one to log elsewhere, and give it to `build_loggers`."""

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Take the numbers of an update."""
        ...

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a validation."""
        ...

    def close(self) -> None:
        """Write what is left, and end."""
        ...


class TensorBoardLogger:
    """Write numbers for TensorBoard: those of updates as train/NAME, those of validations as NAME with dev_ as dev/.

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
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a validation on the dev set."""
        for name, value in values.items():
            if name.startswith("dev_"):
                self._writer.add_scalar(f"dev/{name.removeprefix('dev_')}", value, step)

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._writer.close()


class Loggers:
    """Several loggers as one; none of them: numbers go nowhere, as in ranks other than the first.

    Args:
        loggers: each gets all numbers.

    >>> Loggers([]).step(1, 0, {"loss": 9.7})
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = tuple(loggers)

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Pass on the numbers of an update."""
        for logger in self._loggers:
            logger.step(step, epoch, values)

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Pass on the numbers of a validation."""
        for logger in self._loggers:
            logger.epoch(step, epoch, values)

    def close(self) -> None:
        """Close all."""
        for logger in self._loggers:
            logger.close()
