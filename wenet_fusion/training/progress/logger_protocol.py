"""The interface of loggers, and the names of their curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

LoggerName = Literal["tensorboard", "wandb", "mlflow"]


class Sample(NamedTuple):
    """An utterance as the model recognises it."""

    key: str
    reference: str
    hypothesis: str


class Logger(Protocol):
    """Take the numbers of a run. To log elsewhere, add one to `open_loggers`."""

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Take the numbers of an update."""
        ...

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a validation."""
        ...

    def details(self, step: int, values: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Take what explains a validation: numbers of layers under names with a slash, and some hypotheses."""
        ...

    def close(self) -> None:
        """Write what is left, and end."""
        ...


def step_curves(values: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers of an update under the names of their curves.

    >>> step_curves({"loss": 9.7})
    {'train/loss': 9.7}
    """
    return {f"train/{name}": value for name, value in values.items()}


def epoch_curves(values: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers on the dev set under the names of their curves.

    >>> epoch_curves({"dev_wer": 0.1, "seconds": 60.0})
    {'dev/wer': 0.1}
    """
    return {f"dev/{name.removeprefix('dev_')}": value for name, value in values.items() if name.startswith("dev_")}


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values that are finite, for programs that take no others."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def samples_table(samples: Sequence[Sample]) -> str:
    """Return hypotheses below their references, as Markdown.

    >>> print(samples_table([Sample("u1", "one two", "one to")]))
    - **u1** one two
      <br>one to
    """
    return "\n".join(f"- **{key}** {reference}\n  <br>{hypothesis}" for key, reference, hypothesis in samples)
