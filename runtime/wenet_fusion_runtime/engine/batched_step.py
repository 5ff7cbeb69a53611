"""One step of the model for several streams, each at its own position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.stream.blocks import Block
from wenet_fusion_runtime.stream.stream import Stream


class StepResult(NamedTuple):
    """Output of a step for one stream: the arguments of `Stream.advance`."""

    scores: FrameScores
    encoder_out: np.ndarray  # (1, T, D)
    state: Any  # the model's state after the block


def step_streams(model: AcousticModel, streams: Sequence[Stream]) -> list[StepResult | Exception]:
    """Run the model on the ready blocks of streams, which must share chunk size and left context.

    If the batch fails, each stream is stepped alone, so that an error affects only the streams that cause it.

    Returns:
        The result of each stream, or the exception that its step raised.
    """
    try:
        return _step(model, streams)
    except Exception as error:  # a backend may raise any type
        if len(streams) == 1:
            return [error]
        return [result for stream in streams for result in step_streams(model, [stream])]


def ready_block(stream: Stream) -> Block:
    """Return the ready block of a stream, which must have one."""
    block = stream.ready_block()
    assert block is not None, "the stream has no complete block"
    return block


def _step(model: AcousticModel, streams: Sequence[Stream]) -> list[StepResult | Exception]:
    blocks = [ready_block(stream) for stream in streams]
    samples = np.zeros((len(blocks), max(len(block.samples) for block in blocks)), dtype=np.float32)
    for padded, block in zip(samples, blocks):
        padded[: len(block.samples)] = block.samples
    chunk, left, is_alone = streams[0].chunk, streams[0].left, len(streams) == 1
    state = streams[0].state if is_alone else model.concat_states([stream.state for stream in streams])
    scores, state = model.step(samples, [block.length for block in blocks], chunk, left, state)
    states = [state] if is_alone else model.split_state(state)
    results: list[StepResult | Exception] = []
    for row, own_state in enumerate(states):
        try:
            frame_scores, encoder_out = scores.row(row)
            # Rescoring keeps encoder frames until a segment closes; a view would keep those of the whole batch alive.
            results.append(StepResult(frame_scores, encoder_out if is_alone else encoder_out.copy(), own_state))
        except ValueError as error:
            results.append(error)
    return results
