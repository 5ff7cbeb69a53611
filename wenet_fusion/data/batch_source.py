"""The protocol of training data: the batches of an epoch, from any position on."""

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
    """Settings of batches: their size, their order, and the processes that load them.

    >>> Loading(max_batch_seconds=40.0, max_batch_rows=8, seed=0).num_workers
    0
    """

    max_batch_seconds: float  # largest padded size of a batch, rows * longest utterance
    max_batch_rows: int  # largest number of utterances in a batch
    seed: int  # seed of the random order
    num_workers: int = 0  # processes that load batches; 0: load them in this process


class LoadedBatch(NamedTuple):
    """A batch, and the position in the epoch after it."""

    batch: Batch
    position: int  # counted over all ranks; as `start` of `BatchSource.epoch`, it leads to the next batch
    is_last: bool  # whether it is the rank's last batch of the epoch


class Epoch(NamedTuple):
    """The batches of one rank in an epoch, or in the rest of an epoch."""

    batches: Iterator[LoadedBatch]
    length: int | None  # number of batches; None: unknown before they are read
    largest: tuple[BatchSize, ...] = ()  # sizes of the batches that need most memory, in all ranks; empty: unknown


class BatchSource(Protocol):
    """Training data: `SpeechDataset` plans its epochs from a list, `SequentialDataset` reads shards in sequence.

    In every epoch, each utterance is in one batch of one rank, and all ranks get the same number of batches. If fewer
    utterances than ranks remain at the end, they are left out. Order and random changes depend only on the data, the
    settings, the seed and the number of the epoch.

    Attributes:
        frontend: sample rate and frame length of the model.
        skipped: unusable utterances that were found so far.

    >>> [name for name in vars(BatchSource) if not name.startswith("_")]
    ['contents', 'digest', 'description', 'notes', 'keeps_positions', 'epoch']
    """

    frontend: FrontendGeometry
    skipped: list[Skip]

    @property
    def contents(self) -> DataContents:
        """Return hashes of the data, so that a resumed run can name changes."""

    @property
    def digest(self) -> str:
        """Return the size of the data and a checksum; both must be the same in all ranks."""

    def description(self) -> str:
        """Return the amount of data as text, for the first line of a run."""

    def notes(self) -> tuple[str, ...]:
        """Return notes on the data, e.g. on changes of transcripts and on filtered utterances."""

    def keeps_positions(self, position: int, before: int, now: int) -> bool:
        """Return whether `now` ranks can resume at a position within an epoch that `before` ranks began."""

    def epoch(self, number: int, start: int, most: int, loading: Loading, ranks: Ranks) -> Epoch:
        """Return the batches of one rank.

        Args:
            number: number of the epoch, on which order and random changes depend.
            start: position to start at: 0, or the position of a `LoadedBatch`, to go on after it.
            most: number of batches after which the caller stops; the source may offer more.
            loading: size of the batches, and processes that load them.
            ranks: this process and the others; every rank must call this method.

        Raises:
            ValueError: too many utterances are unusable, or there are fewer usable utterances than ranks.
            OSError: data cannot be read, or another rank or a process that loads batches has died.
        """


def groups(batches: Iterator[LoadedBatch], size: int) -> Iterator[list[LoadedBatch]]:
    """Yield lists of `size` batches; the last list may be shorter.

    >>> list(groups(iter("abc"), 2))
    [['a', 'b'], ['c']]
    """
    while group := list(itertools.islice(batches, size)):
        yield group
