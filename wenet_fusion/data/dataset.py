"""Load utterances as padded batches of samples and token ids; skip and count unusable utterances."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from wenet_fusion_runtime.files import printable
from wenet_fusion_runtime.results.normalization import normalization_note

from wenet_fusion.data.augmentation.waveforms import Augmentation, WaveformAugmenter
from wenet_fusion.data.batch import Batch, Row, pad_rows
from wenet_fusion.data.batch_source import Epoch, LoadedBatch, Loading
from wenet_fusion.data.batching import epoch_batches, largest_batches, rank_batches
from wenet_fusion.data.filters import Filters
from wenet_fusion.data.judgement import MISSTATED, FrontendGeometry, Judge, Skip, too_many_skipped
from wenet_fusion.data.lists.contents import DataContents, list_contents
from wenet_fusion.data.loading import iterate
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sources import Utterance, read_headers
from wenet_fusion.data.utterance_table import TokenColumn, UtteranceTable
from wenet_fusion.ranks import Ranks
from wenet_fusion.text.special_tokens import count_special_tokens
from wenet_fusion.text.tokenizer import Tokenizer

_MAX_SHOWN, _SHOWN = 10, 3  # number of utterances in an error message, and in a note
# Audio may exceed the longest stated duration of its batch by the larger of these two; longer audio is skipped.
_ROOM_SECONDS, _ROOM_SHARE = 0.5, 0.25
# If no utterance of a batch can be read, up to this number of further utterances is tried before loading fails.
_MAX_STAND_INS = 20
_DECODING_THREADS = 4
_LONG_LIST = 1000  # utterances; shorter lists are decoded without a progress bar


class SpeechDataset:
    """Load the usable utterances of a list as padded batches; `skipped` and `filtered` hold the others.

    Durations of the list are trusted: a header is read only if the list states no duration. Utterances with unknown
    tokens, or with too little audio for the transcript, are skipped at once. Loading a batch skips audio that cannot be
    decoded, and audio that is too long for the batch because it is much longer than the list states.

    Args:
        utterances: entries of a data list.
        tokenizer: encodes the transcripts.
        frontend: sample rate and frame length of the model.
        augmentation: random changes to the waveforms; None: no changes.
        seed: seed of the random changes, which also depend on epoch and index.
        max_skipped: largest share of unusable utterances.
        filters: limits beyond which utterances are left out; they do not count as unusable.
        keeps_all: keep utterances beyond the filters, and only mention them in `notes`; for dev lists.

    Raises:
        ValueError: too many utterances are unusable, now or when a batch is loaded.
        OSError: files of the augmentation are missing, now or when a batch is loaded.

    >>> [name for name in vars(SpeechDataset) if name.startswith("decode")]
    ['decode_all']
    >>> dataset = SpeechDataset(read_manifest("data.list"), tokenizer, frontend)  # doctest: +SKIP
    >>> dataset.batch([0, 1], epoch=0).samples_BN.shape  # doctest: +SKIP
    torch.Size([2, 12640])
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokenizer: Tokenizer,
        frontend: FrontendGeometry,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        max_skipped: float = 0.01,
        filters: Filters | None = None,
        keeps_all: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.frontend = frontend
        self.skipped: list[Skip] = []
        self._augmenter = WaveformAugmenter(augmentation, frontend.sample_rate) if augmentation else None
        self.filtered: list[Skip] = []
        self.misstated: list[Skip] = []  # used, although their list states another duration
        self._seed = seed
        self._max_skipped = max_skipped
        self._total = len(utterances)
        self._filters, self._keeps_all = filters, keeps_all
        speeds = augmentation.speed_factors if augmentation else (1.0,)
        self._slowest = min(speeds)
        self._judge = Judge(tokenizer, frontend, max(speeds), None if keeps_all else filters)
        self._tokens = TokenColumn(len(tokenizer.vocabulary))
        table = utterances if isinstance(utterances, UtteranceTable) else UtteranceTable(utterances)
        self.utterances = self._take(table)
        self.seconds = self.utterances.seconds  # for `epoch_batches`: without padding and changes of speed
        if not len(self):
            left_out = [*self.skipped, *self.filtered][:_MAX_SHOWN]
            raise ValueError("\n  ".join(["there are no utterances to use", *map(str, left_out)]))

    def _take(self, table: UtteranceTable) -> UtteranceTable:
        """Encode the usable utterances and return them; record the others."""
        unknown = np.flatnonzero(table.seconds == 0.0).tolist()
        headers = dict(zip(unknown, read_headers([table[index] for index in unknown])))
        usable, skips = np.ones(len(table), bool), []
        for index, utterance in enumerate(table):
            judged = self._judge.check(utterance, headers.get(index))
            if isinstance(judged, Skip):
                skips.append(judged)
                usable[index] = False
            else:
                table.set_seconds(index, judged[0].seconds)
                self._tokens.append(judged[1])
        self.record(skips)
        return table if usable.all() else UtteranceTable(table[index] for index in np.flatnonzero(usable).tolist())

    def __len__(self) -> int:
        return len(self.utterances)

    def used(self) -> tuple[int, float]:
        """Return the number of utterances that can be used, and their duration in hours."""
        lost = {skip.key for skip in self.skipped}
        used = ~np.array([key in lost for key in self.utterances.keys]) if lost else np.ones(len(self), bool)
        return int(used.sum()), float(self.seconds[used].sum()) / 3600

    def decode_all(self, indices: Sequence[int] | None = None) -> None:
        """Decode the audio of all utterances, or of those at `indices`, and count those that training would skip.

        Raises:
            ValueError: too many utterances are unusable.
        """
        chosen = range(len(self)) if indices is None else indices
        with ThreadPoolExecutor(_DECODING_THREADS) as pool:
            decoded = pool.map(self._check, chosen)
            bar = progress_bar(decoded, len(chosen), "decode", "utt", leave=False, disable=len(chosen) < _LONG_LIST)
            self.record(filter(None, bar))

    @property
    def token_counts(self) -> np.ndarray:
        """Return the number of tokens of each transcript."""
        return self._tokens.lengths

    @property
    def contents(self) -> DataContents:
        """Return hashes of keys, durations and token ids, so that a resumed run can name changes."""
        return list_contents(self.utterances.keys, self.utterances.extents(), self._tokens.printed())

    @property
    def digest(self) -> str:
        """Return the number of utterances and a checksum of keys and durations; equal digests give equal plans."""
        lines = (f"{key} {seconds:.3f}\n" for key, seconds in zip(self.utterances.keys, self.seconds.tolist()))
        return f"{len(self)} utterances, checksum {hashlib.sha256(''.join(lines).encode()).hexdigest()[:12]}"

    def description(self) -> str:
        """Return the numbers of usable and of skipped utterances, and the usable hours, as text."""
        count, hours = self.used()
        filtered = f", {len(self.filtered)} beyond data.filters" if self.filtered else ""
        return f"{count} utterance{'s' * (count != 1)}, {hours:.2f} h, {len(self.skipped)} skipped{filtered}"

    def keeps_positions(self, position: int, before: int, now: int) -> bool:
        """Return True: any number of ranks shares the same plan."""
        return True

    def epoch(self, number: int, start: int, most: int, loading: Loading, ranks: Ranks) -> Epoch:
        """Plan an epoch and return the batches of a rank: see `BatchSource`."""
        plan = epoch_batches(
            self.seconds, loading.max_batch_seconds, loading.max_batch_rows, loading.seed, epoch=number
        )
        rest = rank_batches(plan[start:], ranks.rank, ranks.world)
        if not rest and start == 0:
            raise ValueError(f"an epoch has fewer utterances than there are ranks ({ranks.world}); start fewer ranks")

        def loaded() -> Iterator[LoadedBatch]:
            batches = iterate(self, rest[:most], number, loading.num_workers)
            for done, batch in enumerate(batches, start=1):
                yield LoadedBatch(batch, start + done * ranks.world, done == len(rest))

        padding = self.frontend.right_padding_samples / self.frontend.sample_rate
        largest = largest_batches(plan[start:], self.seconds, self._tokens.lengths, self._slowest, padding)
        return Epoch(loaded(), len(rest[:most]), largest)

    def batch(self, indices: Sequence[int], epoch: int) -> Batch:
        """Load the utterances of `indices` as a batch; random changes depend on seed, epoch and index only.

        An utterance that cannot be decoded is left out and counted. If no utterance is left, the batch consists of the
        next readable utterance of the list, so that every entry of a plan yields a batch.

        Raises:
            ValueError: too many utterances are unusable.
        """
        batch, skips = self.load(indices, epoch)
        self.record(skips)
        return batch

    def load(self, indices: Sequence[int], epoch: int) -> tuple[Batch, list[Skip]]:
        """Load a batch like `batch`, but return skipped utterances instead of counting them; for worker processes."""
        rows: list[Row] = []
        skips: list[Skip] = []
        longest = float(self.seconds[list(indices)].max())
        stand_ins = ((indices[-1] + step) % len(self) for step in range(1, _MAX_STAND_INS + 1))
        for number, index in enumerate(itertools.chain(indices, stand_ins)):
            if number >= len(indices) and rows:
                break
            loaded, skip = self._load_samples(index, epoch, longest)
            skips += [skip] if skip else []
            if loaded is not None:
                rows.append(Row(self.utterances.keys[index], loaded, self._tokens[index]))
        if not rows:
            raise ValueError("\n  ".join(["none of these utterances can be read:", *map(str, skips[:_MAX_SHOWN])]))
        return pad_rows(rows, self.frontend.right_padding_samples), skips

    def keys(self, indices: Sequence[int]) -> list[str]:
        """Return the keys of some utterances."""
        return [self.utterances.keys[index] for index in indices]

    def record(self, skips: Iterable[Skip]) -> None:
        """Count skipped utterances, each only once.

        Raises:
            ValueError: more than the share `max_skipped` is unusable.
        """
        skips = list(skips)
        if not skips:  # nearly every batch has none
            return
        known = {skip.key for found in (self.skipped, self.filtered, self.misstated) for skip in found}
        before = len(self.skipped)
        for skip in skips:
            if skip.key not in known:
                found = self.misstated if skip.rule == MISSTATED else self.filtered if skip.rule else self.skipped
                found.append(skip)
                known.add(skip.key)
        if len(self.skipped) == before:
            return
        if len(self.skipped) > self._max_skipped * self._total:
            raise ValueError(
                too_many_skipped(self.skipped, self._total, "utterances cannot be used", self._max_skipped)
            )

    def _check(self, index: int) -> Skip | None:
        return self._read(index, float(self.seconds[index]))[1]

    def notes(self) -> tuple[str, ...]:
        """Return notes on utterances beyond the filters, on wrong durations, and on changes of transcripts."""
        beyond = self._beyond() if self._keeps_all and self._filters else self.filtered
        left_out = "are kept: this list is never filtered" if self._keeps_all else "are left out"
        notes = [
            f"{len(found)} of {self._total} utterances are beyond data.filters.{rule} and {left_out}: {_first(found)}"
            for rule in dict.fromkeys(skip.rule for skip in beyond)
            for found in [[skip for skip in beyond if skip.rule == rule]]
        ]
        if self.misstated:
            differ = "utterance differs" if len(self.misstated) == 1 else "utterances differ"
            notes.append(f"{len(self.misstated)} {differ} from the listed duration: {_first(self.misstated)}")
        return (*notes, *self._text_notes)

    @functools.cached_property
    def _text_notes(self) -> tuple[str, ...]:
        """Return notes on changes of transcripts; cached, because loading batches adds none."""
        texts = dict(zip(self.utterances.keys, self.utterances.texts))
        removed = count_special_tokens(texts.values()) if self.tokenizer.special_tokens == "remove" else ""
        note = f"special tokens were removed from transcripts: {removed}" if removed else ""
        return tuple(filter(None, (normalization_note(texts), note)))

    def _beyond(self) -> list[Skip]:
        """Return the utterances beyond the filters."""
        lengths = self.token_counts.tolist()
        found = (self._judge.filter(item, tokens, self._filters) for item, tokens in zip(self.utterances, lengths))
        return [skip for skip in found if skip is not None]

    def _read(self, index: int, longest: float) -> tuple[np.ndarray | None, Skip | None]:
        """Return the samples and their problem, if any; `longest` is the longest duration planned for their batch."""
        utterance = self.utterances[index]
        longest = max(longest, utterance.seconds)
        room = longest + max(_ROOM_SECONDS, _ROOM_SHARE * longest)
        samples = self._judge.read(utterance, self._tokens[index], room)
        if isinstance(samples, Skip):
            return None, samples
        return samples, self._judge.misstated(utterance, samples.size)

    def _load_samples(self, index: int, epoch: int, longest: float) -> tuple[np.ndarray | None, Skip | None]:
        try:
            samples, skip = self._read(index, longest)
            if self._augmenter and samples is not None:
                rng = np.random.default_rng([self._seed, epoch, index])
                samples = self._augmenter.augment(samples, rng)
        except (MemoryError, OSError):  # no prefix: errors about files of the augmentation name the file
            raise
        except Exception as error:
            utterance = self.utterances[index]
            path = printable(utterance.source.path)
            raise RuntimeError(f"while loading {utterance.key} ({path}): {error!r}") from error
        return samples, skip


def _first(skips: Sequence[Skip]) -> str:
    return "; ".join([*map(str, skips[:_SHOWN])] + ["..."] * (len(skips) > _SHOWN))
