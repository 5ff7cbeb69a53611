"""One step of the model for several streams that may be out of step. Knows neither threads nor sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.search.greedy import FrameScores
from wenet_fusion_runtime.stream.recognizer import Stream


class Stepped(NamedTuple):
    """What a step says of one stream: the arguments of `Stream.advance`."""

    scores: FrameScores
    encoder_out: np.ndarray  # (1, T, D)
    state: Any


def step_streams(model: AcousticModel, streams: Sequence[Stream]) -> list[Stepped | Exception]:
    """Steps streams of one chunk and left context over the blocks that they have ready.

    What fails for the batch is tried again for each stream alone, so that a stream gets its own errors only.
    """
    try:
        return _step(model, streams)
    except Exception as error:  # whatever a backend raises
        if len(streams) == 1:
            return [error]
        return [found for stream in streams for found in step_streams(model, [stream])]


def _step(model: AcousticModel, streams: Sequence[Stream]) -> list[Stepped | Exception]:
    blocks = [stream.ready_block() for stream in streams]
    lengths = [block.length for block in blocks]
    samples = np.zeros((len(blocks), max(len(block.samples) for block in blocks)), dtype=np.float32)
    for row, block in zip(samples, blocks):
        row[: len(block.samples)] = block.samples
    chunk, left, alone = streams[0].chunk, streams[0].left, len(streams) == 1
    state = streams[0].state if alone else model.concat_states([stream.state for stream in streams])
    scores, state = model.step(samples, lengths, chunk, left, state)
    states = [state] if alone else model.split_state(state)
    found: list[Stepped | Exception] = []
    for row, own_state in enumerate(states):
        try:
            frame_scores, encoder_out = scores.row(row)
            # A copy: rescoring keeps a segment's frames, and a view would keep those of all rows.
            found.append(Stepped(frame_scores, encoder_out if alone else encoder_out.copy(), own_state))
        except ValueError as error:
            found.append(error)
    return found
