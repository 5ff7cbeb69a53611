"""Trial passes that do not affect a training, and the search for the first value that is not finite."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from wenet_fusion.training.state.random_state import RandomState, own_random_state, set_own_random_state


@contextlib.contextmanager
def leaving_no_trace(model: nn.Module, random_state: RandomState | None = None) -> Iterator[None]:
    """Restore BatchNorm statistics and torch's generators when the context ends, and drop all gradients.

    Args:
        model: a model in training.
        random_state: state of the generators at the start of the context; None: their current state.
    """
    device = next(model.parameters()).device
    statistics = [buffer for name, buffer in model.named_buffers() if "running_" in name]
    before, now = [statistic.clone() for statistic in statistics], own_random_state(device)
    if random_state is not None:
        set_own_random_state(random_state, device)
    try:
        yield
    finally:
        for statistic, value in zip(statistics, before):
            statistic.copy_(value)
        for parameter in model.parameters():
            parameter.grad = None
        set_own_random_state(now, device)


# ---- values that are not finite


def first_nonfinite(model: nn.Module, passes: Callable[[], None]) -> str:
    """Return where the first value that is not finite appears; an empty string if all are finite.

    Args:
        model: its modules and gradients are watched.
        passes: runs the forward and backward passes.

    >>> import torch
    >>> layer = nn.Linear(1, 1)
    >>> first_nonfinite(nn.Sequential(layer, nn.ReLU()), lambda: layer(torch.full((1, 1), torch.nan)).sum().backward())
    'the output of 0'
    """
    found: list[str] = []

    def watched(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def watch(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not all(_is_finite(tensor) for tensor in _tensors(output)):
                found.append(f"the output of {name}" if name else "the loss")

        return watch

    handles = [module.register_forward_hook(watched(name)) for name, module in model.named_modules()]
    try:
        passes()
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0]
    for name, parameter in reversed(list(model.named_parameters())):  # the backward pass begins with the last ones
        if parameter.grad is not None and not _is_finite(parameter.grad):
            return f"the gradient of {name}"
    return ""


def _is_finite(tensor: Tensor) -> bool:
    # detached: isfinite would save tensors for the backward pass
    return not tensor.is_floating_point() or bool(tensor.detach().isfinite().all())


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for item in output:
            yield from _tensors(item)
