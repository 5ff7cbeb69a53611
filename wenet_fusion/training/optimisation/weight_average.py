"""Exponential moving average of the weights: the model that is validated and saved (Polyak and Juditsky, 1992)."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """The moving average of a model's weights and BatchNorm statistics; does nothing with a decay of 0.

    At update n, the decay is min(decay, (1 + n) / (10 + n)), so the average soon forgets the initial weights.

    Args:
        model: the model in training.
        decay: share of the old average in the new one; 0: no average.

    >>> layer = nn.Linear(1, 1)
    >>> average = WeightAverage(layer, decay=0.999)
    >>> with average.in_place():
    ...     pass  # the layer holds the average here
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.average: dict[str, Tensor] = {}
        if decay:
            self.average = {name: value.clone() for name, value in self._current().items()}

    def _current(self) -> dict[str, Tensor]:
        return {name: value for name, value in self._model.state_dict().items() if value.is_floating_point()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Add the current weights to the average.

        Args:
            updates: number of updates so far, this one included.
        """
        if self._decay:
            share = 1 - min(self._decay, (1 + updates) / (10 + updates))
            current = self._current()
            torch._foreach_lerp_([self.average[name] for name in current], list(current.values()), share)

    def restore(self, average: dict[str, Tensor]) -> None:
        """Restore a saved average."""
        for name, value in self.average.items():
            value.copy_(average[name])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model while the context is open; then put the trained weights back."""
        weights = {name: value.clone() for name, value in self._current().items()} if self._decay else {}
        _copy(self._current(), self.average)
        try:
            yield
        finally:
            _copy(self._current(), weights)


@torch.no_grad()
def _copy(to: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        to[name].copy_(value)
