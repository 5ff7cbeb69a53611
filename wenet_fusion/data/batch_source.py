"""The protocol between training and its data: the batches of an epoch, from any position on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from wenet_fusion.data.batch import Batch
from wenet_fusion.data.batching import BatchSize
from wenet_fusion.data.judgement import FrontendGeometry, Skip
from wenet_fusion.data.lists.contents import DataContents
from wenet_fusion.ranks import Ranks


class Loading(NamedTuple):
    """The size of batches, their order, and the processes that load them.

    >>> Loading(max_batch_seconds=40.0, max_batch_rows=8, seed=0).num_workers
    0
    """

    max_batch_seconds: float  # largest padded size of a batch, rows * longest utterance
    max_batch_rows: int  # most utterances in a batch
    seed: int  # of the order
    num_workers: int = 0  # processes that decode; 0 decodes in this one


class LoadedBatch(NamedTuple):
    """A batch, and where the epoch is after it."""

    batch: Batch
    position: int  # in the epoch, over all ranks: an epoch that starts here goes on with the next batch
    is_last: bool  # of the epoch


class Epoch(NamedTuple):
    """The batches of an epoch, or of its rest, that one rank trains on."""

    batches: Iterator[LoadedBatch]
    length: int | None  # number of batches; None if only reading them tells
    largest: tuple[BatchSize, ...] = ()  # of all ranks' batches those that need most memory, as far as is known


class BatchSource(Protocol):
    """Training data: `SpeechDataset` plans its epochs from a list, `SequentialDataset` reads shards in sequence.

    In every epoch each utterance is in one batch of one rank, and all ranks get as many batches; at most one utterance
    less than there are ranks is left out at the end. Order and random changes depend on the seed and the position only.

    Attributes:
        frontend: sample rate and frame length of the model.
        skipped: utterances that cannot be used, so far.

    >>> [name for name in vars(BatchSource) if not name.startswith("_")]
    ['contents', 'digest', 'description', 'notes', 'keeps_positions', 'epoch']
    """

    frontend: FrontendGeometry
    skipped: list[Skip]

    @property
    def contents(self) -> DataContents:
        """Return hashes of the data, from which a resumed run says what has changed."""

    @property
    def digest(self) -> str:
        """Return the size of the data and a checksum; equal digests give equal epochs."""

    def description(self) -> str:
        """Return how much data there is, for the first line of a run."""

    def notes(self) -> tuple[str, ...]:
        """Return what is changed in transcripts, if anything."""

    def keeps_positions(self, position: int, before: int, now: int) -> bool:
        """Return whether `now` ranks can go on from a position within an epoch that `before` ranks have begun."""

    def epoch(self, number: int, start: int, most: int, loading: Loading, ranks: Ranks) -> Epoch:
        """Return the batches of one rank.

        Args:
            number: of the epoch; key of the order and of random changes.
            start: position to start at: 0, or that of a `LoadedBatch`.
            most: largest number of batches.
            loading: size of the batches, and processes that load them.
            ranks: this process and the others, which all call this.

        Raises:
            ValueError: too many utterances are unusable, or an epoch has fewer of them than there are ranks.
            OSError: data cannot be read, or a process that loads batches or another rank has ended.
        """


def groups(batches: Iterator[LoadedBatch], size: int) -> Iterator[list[LoadedBatch]]:
    """Yield `size` batches at a time, and the rest at the end.

    >>> list(groups(iter("abc"), 2))
    [['a', 'b'], ['c']]
    """
    while group := list(itertools.islice(batches, size)):
        yield group
