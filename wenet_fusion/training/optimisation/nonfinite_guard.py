"""Skip updates whose loss or gradient is not finite, and stop a run that has diverged."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from wenet_fusion.data.batch import Batch
from wenet_fusion.training.optimisation.trial import first_nonfinite, leaving_no_trace
from wenet_fusion.training.state.atomic_save import save_atomically
from wenet_fusion.training.state.random_state import own_random_state

MAX_NONFINITE_RUN = 10  # number of skipped updates in a row after which a run counts as diverged


class NonFiniteGuard:
    """Restore BatchNorm statistics after a skipped update, save its batches to a file, and count skipped updates.

    Args:
        model: its running statistics change in each forward pass, before the loss is known.
        model_dir: receives `nonfinite_batch.pt`, or `nonfinite_batch_rankN.pt` from a rank N above 0.
        peak_rate: the configured learning rate, for the message of a run that has diverged.
        rank: the number of this process.

    >>> guard = NonFiniteGuard(nn.BatchNorm1d(2), Path("exp"), peak_rate=0.001)
    >>> guard.start_update()
    >>> guard.accept()
    """

    def __init__(self, model: nn.Module, model_dir: Path, peak_rate: float, rank: int = 0) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._random_state = own_random_state(self._device)
        self._statistics = [buffer for name, buffer in model.named_buffers() if "running_" in name]
        self._before: list[Tensor] = []
        self._path = model_dir / (f"nonfinite_batch_rank{rank}.pt" if rank else "nonfinite_batch.pt")
        self._peak_rate = peak_rate
        self._in_a_row = 0

    def start_update(self) -> None:
        """Copy statistics and generator states before the forward passes of an update."""
        self._random_state = own_random_state(self._device)
        self._before = [statistic.clone() for statistic in self._statistics]

    def accept(self) -> None:
        """Reset the count of skipped updates in a row after a finite update."""
        self._in_a_row = 0

    def restore(self) -> None:
        """Restore the statistics to their values before the update."""
        for statistic, value in zip(self._statistics, self._before):
            statistic.copy_(value)

    def skip(self, step: int, batches: Sequence[Batch], passes: Callable[[], None]) -> None:
        """Restore the statistics, write the batches to a file and print a line.

        Args:
            step: number of the update.
            batches: batches of the update.
            passes: repeats the forward and backward passes, to find the first value that is not finite.

        Raises:
            ValueError: `MAX_NONFINITE_RUN` updates in a row were not finite.
        """
        self.restore()
        self._in_a_row += 1
        with leaving_no_trace(self._model, self._random_state):
            where = first_nonfinite(self._model, passes) or "nowhere when the update is repeated"
        save_atomically([batch._asdict() for batch in batches], self._path)
        keys = ", ".join(key for batch in batches for key in batch.keys[:3])
        print(
            f"\nstep {step}: loss or gradient is not finite; update skipped, batch ({keys}, ...) kept in {self._path}; "
            f"first seen in: {where}"
        )
        if self._in_a_row >= MAX_NONFINITE_RUN:
            raise ValueError(
                f"training diverged: {MAX_NONFINITE_RUN} updates in a row were not finite, the last batch is in "
                f"{self._path}; lower training.optim.learning_rate (now {self._peak_rate}) or lengthen warmup_steps"
            )
