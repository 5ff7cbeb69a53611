"""The protocol of loggers, and the names of the curves that they draw."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

LoggerName = Literal["tensorboard", "wandb", "mlflow"]


class Sample(NamedTuple):
    """An utterance of the dev set, with the model's hypothesis."""

    key: str
    reference: str
    hypothesis: str


class Logger(Protocol):
    """Receives the numbers of a run. To log elsewhere, add a class with these methods to `open_loggers`."""

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Log the numbers of an update."""
        ...

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a validation."""
        ...

    def details(self, step: int, values: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Log details of a validation: statistics of layers, by names with a slash, and some hypotheses."""
        ...

    def close(self) -> None:
        """Write pending numbers, and end."""
        ...


def step_curves(values: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers of an update under the names of their curves.

    >>> step_curves({"loss": 9.7})
    {'train/loss': 9.7}
    """
    return {f"train/{name}": value for name, value in values.items()}


def epoch_curves(values: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers of a validation under the names of their curves; drop those without the prefix dev_.

    >>> epoch_curves({"dev_wer": 0.1, "seconds": 60.0})
    {'dev/wer': 0.1}
    """
    return {f"dev/{name.removeprefix('dev_')}": value for name, value in values.items() if name.startswith("dev_")}


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Return the finite values, for services that accept no others."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def samples_table(samples: Sequence[Sample]) -> str:
    """Return a Markdown list of samples: each reference with its hypothesis below.

    >>> print(samples_table([Sample("u1", "one two", "one to")]))
    - **u1** one two
      <br>one to
    """
    return "\n".join(f"- **{key}** {reference}\n  <br>{hypothesis}" for key, reference, hypothesis in samples)
