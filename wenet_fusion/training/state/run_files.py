"""Write the checkpoints of a run, and delete those that need not be kept."""

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
_LEAD = 10  # a background write may take a tenth of the interval


class Keeping(NamedTuple):
    """The step_*.pt files to keep.

    >>> Keeping(newest=3).best
    0
    """

    newest: int
    best: int = 0  # in addition to the newest
    by: Score = "error_rate"  # dev score that ranks checkpoints; ties: the other score, then the newer one is better


class RunFiles:
    """Write the checkpoints and the training state of a run.

    A kill loses at most `interval` updates. A state to write in the background is therefore copied after 90 %
    of the interval, and training waits if the copy is not on disk after the other 10 %. Files are completed in the
    order in which they were submitted.

    Args:
        model_dir: folder of the run.
        interval: largest number of updates that a kill may lose.
        keeping: which checkpoints to keep.
        in_background: write in a thread if `interval` is at least 10; needs memory for a copy of the state.

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
        """Raise the error of a failed write, and wait for a write that takes too long; call this after each step.

        Raises:
            OSError: a file could not be written, e.g. because the disk is full; the previous file stays.
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
        """Wait until everything is written."""
        self._writer.wait()

    def close(self) -> None:
        """Finish all writes; `wait` raises their errors."""
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
        count: number of checkpoints to return.
        by: the score to compare; ties: the other score decides, then the newer checkpoint is better.
    """

    def rank(path: Path) -> list[float]:
        loss, rate = read_scores(path)
        order = (rate, loss) if by == "error_rate" else (loss, rate)
        return [*(math.inf if math.isnan(value) else value for value in order), -checkpoint_step(path)]

    return sorted(paths, key=rank)[:count]
