"""Training data that is read in sequence, from shards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from wenet_fusion.data.augmentation.waveforms import Augmentation, WaveformAugmenter
from wenet_fusion.data.batch import Batch, Row, pad_rows
from wenet_fusion.data.batch_source import Epoch, LoadedBatch, Loading
from wenet_fusion.data.filters import Filters
from wenet_fusion.data.judgement import FrontendGeometry, Judge, Skip, too_many_skipped
from wenet_fusion.data.lists.contents import DataContents, list_contents
from wenet_fusion.data.loading import iterate
from wenet_fusion.data.sequential.lanes import (
    LaneSettings,
    PlannedUtterance,
    Release,
    Slots,
    deal_shards,
    lane_releases,
    take_turns,
)
from wenet_fusion.data.sequential.rank_steps import Position, even_steps
from wenet_fusion.data.sequential.read_ahead import read_ahead
from wenet_fusion.data.sequential.shard_list import SequentialConfig
from wenet_fusion.data.sequential.shards import Shard
from wenet_fusion.data.sources import Utterance, header_or_problem
from wenet_fusion.ranks import Ranks
from wenet_fusion.text.tokenizer import Tokenizer

# Before the end of an epoch, the share of skipped utterances is relative to at least this number of utterances.
_ENOUGH = 1000
_SHOWN = 3  # number of utterances in a note


class SkipLimits(NamedTuple):
    """Limits on the utterances that training leaves out.

    >>> SkipLimits().max_skipped
    0.01
    """

    max_skipped: float = 0.01  # largest share of unusable utterances, and of shards that cannot be read
    filters: Filters | None = None  # limits beyond which utterances are left out; they do not count as unusable


class SequentialDataset:
    """A corpus of shards that training reads in sequence in every epoch: see `BatchSource`.

    Args:
        shards: the shards of the corpus.
        tokenizer: encodes the transcripts.
        frontend: sample rate and frame length of the model.
        settings: lanes, buffer, retries.
        augmentation: random changes to the waveforms; None: no changes.
        seed: seed of the random order and changes.
        limits: limits on the utterances that are left out.

    >>> from wenet_fusion.data.sequential.shards import TarShard
    >>> from wenet_fusion.text.tokenizer import CharTokenizer
    >>> from wenet_fusion_runtime.results.vocabulary import Vocabulary
    >>> tokenizer = CharTokenizer(Vocabulary(["<blank>", "<unk>", "<sos/eos>", "one"], "words"))
    >>> shards = [TarShard("a.tar"), TarShard("https://example.org/b.tar")]
    >>> SequentialDataset(shards, tokenizer, FrontendGeometry(16000, 640, 0), SequentialConfig()).description()
    '2 shards, read in sequence'
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        tokenizer: Tokenizer,
        frontend: FrontendGeometry,
        settings: SequentialConfig,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        limits: SkipLimits = SkipLimits(),
    ) -> None:
        self.tokenizer, self.frontend = tokenizer, frontend
        self.skipped: list[Skip] = []  # utterances, and shards that cannot be read
        self.shards, self._settings = tuple(shards), settings
        self._seed, self._max_skipped = seed, limits.max_skipped
        self._augmenter = WaveformAugmenter(augmentation, frontend.sample_rate) if augmentation else None
        fastest = max(augmentation.speed_factors) if augmentation else 1.0
        self._judge = Judge(tokenizer, frontend, fastest, limits.filters)
        self._known: set[str] = set()  # keys of `skipped`
        self._seen = 0  # utterances that this rank has read in the current epoch
        self._filtered: Counter[str] = Counter()  # for each rule, the number of utterances that it left out
        self._shown: list[Skip] = []  # the first utterances that a rule left out
        self._skipped_now: dict[str, Skip] = {}  # skipped in the current epoch, by key
        self._failed_now: dict[str, Skip] = {}

    @property
    def contents(self) -> DataContents:
        """Return hashes of the shards' places."""
        n = len(self.shards)
        return list_contents([shard.name for shard in self.shards], [""] * n, ["[]"] * n)

    @property
    def digest(self) -> str:
        """Return the number of shards and a checksum of their places."""
        return f"{len(self.shards)} shards, checksum {int(self.contents.hashes.sum()) & 0xFFFFFFFFFFFF:012x}"

    def description(self) -> str:
        """Return the number of shards."""
        return f"{len(self.shards)} shard{'s' * (len(self.shards) != 1)}, read in sequence"

    def notes(self) -> tuple[str, ...]:
        """Return a note on the utterances that filters left out of the current or last epoch."""
        if not self._filtered:
            return ()
        rules = ", ".join(f"{rule} {count}" for rule, count in sorted(self._filtered.items()))
        first = "; ".join(map(str, self._shown))
        return (f"{self._filtered.total()} utterances are beyond data.filters ({rules}): {first}",)

    def keeps_positions(self, position: int, before: int, now: int) -> bool:
        """Return whether the number of lanes stays the same, and a step of `now` ranks begins at the position."""
        batches, steps = Position.decode(position)
        is_between_steps = batches % now == 0 and (steps == 0 or before == now)  # held rows are dealt to `before` ranks
        return is_between_steps and self._lanes(before) == self._lanes(now)

    def epoch(self, number: int, start: int, most: int, loading: Loading, ranks: Ranks) -> Epoch:
        """Return the batches of a rank: see `BatchSource`. Batches before `start` are read, but not decoded."""
        return Epoch(self._epoch(number, Position.decode(start), loading, ranks), None)

    def load(self, planned: Sequence[PlannedUtterance], epoch: int) -> tuple[Batch, list[Skip]]:
        """Decode a batch, and return it with the skipped utterances; a batch may have no rows."""
        rows, skips = [], []
        for utterance, tokens, place in planned:
            key = [self._seed, epoch, *place]
            samples = self._judge.read(utterance, tokens)
            if isinstance(samples, Skip):
                skips.append(samples)
                continue
            if self._augmenter:
                samples = self._augmenter.augment(samples, np.random.default_rng(key))
            rows.append(Row(utterance.key, samples, tokens))
        return pad_rows(rows, self.frontend.right_padding_samples), skips

    def keys(self, planned: Sequence[PlannedUtterance]) -> list[str]:
        """Return the keys of a planned batch."""
        return [item.utterance.key for item in planned]

    def record(self, skips: Iterable[Skip]) -> None:
        """Count skipped utterances of this epoch.

        Raises:
            ValueError: more than the share `max_skipped` is unusable.
        """
        self._note(self._skipped_now, (skip for skip in skips if not self._is_filtered(skip)))

    def examined(self, decoded: float) -> Iterator[tuple[Utterance | Skip, tuple[Utterance, list[int]] | Skip]]:
        """Yield each utterance of the shards and its judgement; decode the first `decoded` utterances of each shard.

        Afterwards, `skipped` and `notes` hold what training would leave out.
        """
        for shard in self.shards:
            try:
                for number, found in enumerate(shard.read(self._settings.retries)):
                    judged = found if isinstance(found, Skip) else self._judge.check(found, header_or_problem(found))
                    if number < decoded and not isinstance(judged, Skip):
                        samples = self._judge.read(*judged)
                        judged = samples if isinstance(samples, Skip) else judged
                    if isinstance(judged, Skip) and not self._is_filtered(judged):
                        self.skipped.append(judged)
                    yield found, judged
            except (OSError, ValueError) as error:
                self.skipped.append(Skip(shard.name, str(error)))

    def _lanes(self, world: int) -> int:
        return math.ceil(self._settings.lanes / world) * world

    def _epoch(self, number: int, start: Position, loading: Loading, ranks: Ranks) -> Iterator[LoadedBatch]:
        self._seen, self._filtered, self._shown = 0, Counter(), []
        self._skipped_now, self._failed_now = {}, {}
        slots = Slots(self._lanes(ranks.world), ranks.rank, ranks.world, start.batches // ranks.world)
        batches = iterate(self, self._plan(number, slots, loading), number, loading.num_workers)
        steps = even_steps(batches, start, ranks, self.frontend.right_padding_samples)
        current = next(steps, None)
        if current is None and start == Position(0):
            few = f"an epoch has fewer usable utterances than there are ranks ({ranks.world})"
            unusable = [*self._failed_now.values(), *self._skipped_now.values()][:10]
            raise ValueError("\n  ".join([few, *map(str, unusable)]))
        while current is not None:
            following = next(steps, None)
            yield LoadedBatch(current[0], current[1].encode(), following is None)
            current = following

    def _plan(self, epoch: int, slots: Slots, loading: Loading) -> Iterator[list[PlannedUtterance]]:
        """Yield a rank's batches. DataLoader forks its workers before this generator runs and starts its threads."""
        dealt = deal_shards(len(self.shards), slots.lanes, self._seed, epoch)
        buffer = max(2, self._settings.shuffle_buffer // slots.lanes)
        settings = LaneSettings(buffer, self._settings.retries, loading.max_batch_seconds, loading.max_batch_rows)
        shards = {lane: [(number, self.shards[number]) for number in dealt[lane]] for lane in slots.own()}
        releases = [
            read_ahead(lane_releases(shards[lane], self._judge, settings, f"{self._seed}/{epoch}/{lane}"))
            for lane in shards
        ]
        yield from take_turns([self._counted(lane) for lane in releases], slots.start)
        self._check_share(self._seen)

    def _counted(self, releases: Iterator[Release]) -> Iterator[list[PlannedUtterance]]:
        for release in releases:
            self._seen += release.seen
            self._note(self._failed_now, release.failed)
            self.record(release.skips)
            yield from release.batches

    def _is_filtered(self, skip: Skip) -> bool:
        """Return whether a filter leaves the utterance out; if so, count it."""
        if skip.rule:
            self._filtered[skip.rule] += 1
            self._shown += [skip] if len(self._shown) < _SHOWN else []
        return bool(skip.rule)

    def _note(self, skips_now: dict[str, Skip], found: Iterable[Skip]) -> None:
        """Add the found skips to the epoch's skips, and check their share if any are new."""
        before = len(skips_now)
        for skip in found:
            skips_now.setdefault(skip.key, skip)
            if skip.key not in self._known:
                self._known.add(skip.key)
                self.skipped.append(skip)
        if len(skips_now) > before:
            self._check_share(max(self._seen, _ENOUGH))

    def _check_share(self, total: int) -> None:
        for skips, count, what in (
            (self._failed_now, len(self.shards), "shards cannot be read"),
            (self._skipped_now, total, "utterances cannot be used"),
        ):
            if len(skips) > self._max_skipped * count:
                raise ValueError(too_many_skipped(list(skips.values()), count, what, self._max_skipped))


def read_into_memory(shards: Iterable[Shard], retries: int) -> list[Utterance]:
    """Return all utterances of shards, e.g. of a dev set, with their audio.

    Raises:
        OSError, ValueError: a shard cannot be read, or holds an unusable utterance.
    """
    utterances = []
    for shard in shards:
        for found in shard.read(retries):
            if isinstance(found, Skip):
                raise ValueError(str(found))
            utterances.append(found)
    return utterances
