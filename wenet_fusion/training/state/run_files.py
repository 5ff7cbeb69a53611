"""The checkpoints of a run: when they are written, and which ones are kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple

from wenet_fusion.training.state.background_writer import BackgroundWriter
from wenet_fusion.training.state.checkpoint import (
    ModelCheckpoint,
    TrainingState,
    checkpoint_name,
    checkpoint_step,
    list_checkpoints,
    read_scores,
    save_model,
    save_training_state,
)

Score = Literal["error_rate", "loss"]
_LEAD = 10  # a background write may last a tenth of the interval


class Keeping(NamedTuple):
    """The step_*.pt files that stay.

    >>> Keeping(newest=3).best
    0
    """

    newest: int
    best: int = 0  # beside the newest ones
    by: Score = "error_rate"  # on the dev set; of equal ones the lower loss, then the newer one, is better


class RunFiles:
    """Write the checkpoints and the training state of a run.

    A state is complete at most `interval` updates after the one before it was due, so a kill loses no more than those:
    in the background, states are taken a tenth of the interval earlier, and training waits for a write that lasts
    longer than that tenth. Files are complete in the order in which they were given.

    Args:
        model_dir: folder of the run.
        interval: updates that a kill may lose.
        keeping: checkpoints to keep.
        in_background: write in a thread; costs memory for a copy of the state.

    >>> [step for step in range(1, 41) if RunFiles(Path("exp"), 20, Keeping(3), in_background=True).is_due(step)]
    [18, 36]
    """

    def __init__(self, model_dir: Path, interval: int, keeping: Keeping, in_background: bool = False) -> None:
        self._model_dir, self._keeping = model_dir, keeping
        self._lead = interval // _LEAD if in_background else 0
        self._period = interval - self._lead
        self._writer = BackgroundWriter(self._lead > 0)
        self._saved_at = 0

    def is_due(self, step: int) -> bool:
        """Return whether the state should be saved after a step."""
        return step % self._period == 0

    def step_done(self, step: int) -> None:
        """Note that training has done a step: raise the error of a write, and wait for one that lasts too long.

        Raises:
            OSError: a file could not be written, e.g. because the disk is full; the one before it stays.
        """
        if step >= self._saved_at + self._lead:
            self._writer.wait()
        else:
            self._writer.check()

    def save_model(self, checkpoint: ModelCheckpoint) -> None:
        """Write step_N.pt, and delete checkpoints that are neither among the newest nor among the best."""
        checkpoint = self._writer.own(checkpoint)

        def write() -> None:
            save_model(checkpoint, self._model_dir / checkpoint_name(checkpoint.step))
            delete_surplus(self._model_dir, self._keeping)

        self._writer.submit(write)

    def save_state(self, state: TrainingState) -> None:
        """Write training_state.pt."""
        state = self._writer.own(state)
        self._saved_at = state.step
        self._writer.submit(lambda: save_training_state(state, self._model_dir))

    def wait(self) -> None:
        """Return when everything is written."""
        self._writer.wait()

    def close(self) -> None:
        """Write what is left; `wait` raises its errors."""
        self._writer.close()


def delete_surplus(model_dir: Path, keeping: Keeping) -> None:
    """Delete the checkpoints of a folder that are neither among the newest nor among the best."""
    paths = list_checkpoints(model_dir)
    kept = set(paths[-keeping.newest :])
    if keeping.best and len(paths) > len(kept):
        kept |= set(best_checkpoints(paths, keeping.best, keeping.by))
    for path in paths:
        if path not in kept:
            path.unlink()


def best_checkpoints(paths: list[Path], count: int, by: Score) -> list[Path]:
    """Return the checkpoints with the lowest dev error rate or loss, best first; NaN counts as the highest.

    Args:
        paths: checkpoints, oldest first.
        count: how many.
        by: what to compare; the other one decides between equal values, then the newer checkpoint is better.
    """

    def rank(path: Path) -> list[float]:
        loss, rate = read_scores(path)
        order = (rate, loss) if by == "error_rate" else (loss, rate)
        return [*(math.inf if math.isnan(value) else value for value in order), -checkpoint_step(path)]

    return sorted(paths, key=rank)[:count]
