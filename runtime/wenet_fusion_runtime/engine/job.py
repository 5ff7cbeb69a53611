"""A session as the scheduler sees it: its audio, its phase and when its next block is due."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from wenet_fusion_runtime.stream.biasing import Biasing
from wenet_fusion_runtime.stream.stream import Stream

# A resampler returns its samples in bursts, so a block may be complete although this much audio seems to be missing.
BURST_SECONDS = 0.2

Group = tuple[int, int]  # chunk size in encoder frames, left context in chunks: equal for all streams of a batch


class Piece(NamedTuple):
    """Samples as the owner of a session pushed them."""

    samples: np.ndarray
    sample_rate: int | None  # Hz; None: the model's rate


class Change(NamedTuple):
    """Hot words and context that apply to the audio pushed afterwards."""

    biasing: Biasing


class Phase(Enum):
    """State of a job."""

    IDLE = 1  # waits for audio
    QUEUED = 2  # waits for a worker
    TAKEN = 3  # a worker is stepping it
    DONE = 4  # finished, failed or closed; holds no stream and no audio


class Job:
    """A session in the scheduler, protected by the scheduler's lock. Only the worker that took a job uses its stream.

    Args:
        stream: decodes the audio of the session.
        on_update: receives the session's updates.
        on_room: called when audio was consumed without an update.

    >>> from types import SimpleNamespace
    >>> model = SimpleNamespace(meta=SimpleNamespace(sample_rate=16000, frame_seconds=0.04, lookahead_samples=0))
    >>> job = Job(SimpleNamespace(model=model, chunk=16, left=4), on_update=print)
    >>> job.chunk_seconds, job.is_due
    (0.64, False)
    """

    def __init__(
        self, stream: Stream, on_update: Callable[[Any], object], on_room: Callable[[], object] | None = None
    ) -> None:
        meta = stream.model.meta
        self.stream: Stream | None = stream
        self.on_update, self.on_room = on_update, on_room
        self.group: Group = stream.chunk, stream.left
        self.rate = meta.sample_rate
        self.chunk_seconds = stream.chunk * meta.frame_seconds
        self.block_seconds = self.chunk_seconds + meta.lookahead_samples / meta.sample_rate
        self.phase = Phase.IDLE
        self.pieces: list[Piece | Change] = []  # not yet passed to the stream
        self.changes = 0  # number of Change values in `pieces`
        self.pushed_seconds = 0.0  # audio in `pieces`
        self.buffered_seconds = 0.0  # audio in the stream that is not decoded
        self.has_block = False  # the stream holds a complete block
        self.ended = False  # the owner pushes no more audio
        self.due_since = 0.0  # clock reading at which the job was queued
        self.last_push, self.piece_seconds = -math.inf, 0.0  # clock reading and length of the last push

    @property
    def waiting_seconds(self) -> float:
        """Audio that was pushed and is not decoded, in seconds."""
        return self.pushed_seconds + self.buffered_seconds

    @property
    def is_due(self) -> bool:
        """True if a worker should take the job."""
        if self.has_block or self.ended or self.changes or not self.pieces:
            return self.has_block or self.ended or self.changes > 0
        first = self.pieces[0]
        slack = 0.0 if isinstance(first, Piece) and first.sample_rate in (None, self.rate) else BURST_SECONDS
        return self.waiting_seconds + slack + 1e-6 >= self.block_seconds

    def expected(self) -> float:
        """Return the clock reading at which the next block will be complete if the owner keeps its pace."""
        if not self.piece_seconds:
            return math.inf
        pieces = math.ceil((self.block_seconds - self.waiting_seconds) / self.piece_seconds - 1e-6)
        return self.last_push + pieces * self.piece_seconds


class Taken(NamedTuple):
    """A job that a worker has taken, with the audio pushed since a worker last took it."""

    job: Job
    stream: Stream
    pieces: list[Piece | Change]
    ended: bool
    due_since: float
