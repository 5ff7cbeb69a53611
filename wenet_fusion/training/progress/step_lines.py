"""Progress of a training: a bar for each epoch on a terminal; lines if the output is a file or a pipe."""

import time
from collections.abc import Mapping
from datetime import timedelta

from tqdm import tqdm

from wenet_fusion.data.progress_bar import LOG_INTERVAL_SECONDS, on_terminal, progress_bar


def epoch_bar(epoch: int, batches: int | None, is_first: bool) -> tqdm:
    """Return the progress bar of an epoch; only the first rank shows one, and only on a terminal."""
    return progress_bar(None, batches, f"epoch {epoch}", "batch", disable=not (is_first and on_terminal()))


class StepLines:
    """Progress lines: one for the first update, then one every 30 s; none on a terminal, which has a bar.

    >>> values = {"loss": 9.7, "lr": 1e-3, "grad_norm": 4.0, "audio_hours_per_hour": 160.4, "peak_memory_gb": 0.7}
    >>> StepLines(max_steps=100).due(1, 0, values)
    'epoch 0, step 1 of 100: loss 9.700, lr 1.0e-03, gradient norm 4.00, 160 times real time, 0.7 GB'
    """

    def __init__(self, max_steps: int) -> None:
        self._max_steps, self._losses = max_steps, list[float]()
        self._first, self._began, self._last = 0, 0.0, 0.0  # the first update and its time, the time of the last line

    def due(self, step: int, epoch: int, values: Mapping[str, float]) -> str:
        """Return a line with the mean loss since the last line and numbers of this update, or an empty string."""
        if on_terminal():
            return ""
        now, left = time.monotonic(), ""
        self._losses.append(values["loss"])
        if self._first and now < self._last + LOG_INTERVAL_SECONDS:
            return ""
        loss, self._losses, self._last = sum(self._losses) / len(self._losses), [], now
        if self._first:  # the time left includes validations
            seconds = (now - self._began) / (step - self._first) * (self._max_steps - step)
            left = f", {timedelta(seconds=round(seconds))} left"
        else:
            self._first, self._began = step, now
        return (
            f"epoch {epoch}, step {step} of {self._max_steps}: loss {loss:.3f}, lr {values['lr']:.1e}, gradient norm "
            f"{values['grad_norm']:.2f}, {values['audio_hours_per_hour']:.0f} times real time, "
            f"{values['peak_memory_gb']:.1f} GB{left}"
        )
