"""Describe the state of a step, and silence exporters, for targets that trace a step."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from wenet_fusion_runtime.model.metadata import BATCH, CACHE

from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.streaming import StreamingModel


def describe_state(model: StreamingModel, chunking: Chunking | None = None) -> list[list[Any]]:
    """Return name, dtype and shape of each tensor of a stream's state.

    Without a chunking, the size of an axis that grows with the left context is CACHE.
    """
    shorter, longer = (model.init_state(1, *(chunking or (1, left))) for left in (1, 2))
    described = []
    for i, (short, long) in enumerate(zip(shorter, longer)):
        sizes = [size if size == other else CACHE for size, other in zip(short.shape[1:], long.shape[1:])]
        described.append([f"state_{i}", str(short.dtype).removeprefix("torch."), [BATCH, *sizes]])
    return described


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' warnings, because the flow verifies the files."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
