"""Load utterances as padded batches of samples and token ids; unusable ones are skipped and counted."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from wenet_fusion_runtime.files import printable
from wenet_fusion_runtime.results.normalization import normalization_note

from wenet_fusion.data.augmentation.waveforms import Augmentation, WaveformAugmenter
from wenet_fusion.data.batch import Batch, Row, pad_rows
from wenet_fusion.data.batch_source import Epoch, LoadedBatch, Loading
from wenet_fusion.data.batching import epoch_batches, rank_batches
from wenet_fusion.data.judgement import FrontendGeometry, Judge, Skip
from wenet_fusion.data.lists.contents import DataContents, list_contents
from wenet_fusion.data.loading import iterate
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sources import Utterance, read_headers
from wenet_fusion.ranks import Ranks
from wenet_fusion.text.special_tokens import count_special_tokens
from wenet_fusion.text.tokenizer import Tokenizer

_MAX_SHOWN = 10
# If a whole batch cannot be read, this many utterances after it are tried before loading fails.
_MAX_STAND_INS = 20
_DECODING_THREADS = 4
_LONG_LIST = 1000  # utterances; shorter ones are decoded without a progress bar


class DataReport(NamedTuple):
    """The utterances of a data list that training would use, and those it would skip.

    >>> DataReport(400, 0.35, [Skip("u1", "u1.wav: is empty")]).skipped[0].key
    'u1'
    """

    utterances: int  # that it uses
    hours: float  # of those
    skipped: list[Skip]
    notes: tuple[str, ...] = ()  # changes of the transcripts


class SpeechDataset:
    """The usable utterances of a list, in its order, as padded batches; `skipped` lists the others.

    Unreadable headers, transcripts with unknown tokens and audio too short for its transcript are found at once; audio
    that cannot be decoded is found, and skipped, when its batch is loaded.

    Args:
        utterances: entries of a data list.
        tokenizer: encodes the transcripts.
        frontend: sample rate and frame length of the model.
        augmentation: random changes to the waveforms; None for none.
        seed: key of the random changes, beside epoch and index.
        max_skipped: largest share of unusable utterances.

    Raises:
        ValueError: too many utterances are unusable, now or when a batch is loaded.
        OSError: files of the augmentation are missing, now or when a batch is loaded.

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
    ) -> None:
        self.tokenizer = tokenizer
        self.frontend = frontend
        self.skipped: list[Skip] = []
        self._augmenter = WaveformAugmenter(augmentation, frontend.sample_rate) if augmentation else None
        self._seed = seed
        self._max_skipped = max_skipped
        self._total = len(utterances)
        self._judge = Judge(tokenizer, frontend, max(augmentation.speed_factors) if augmentation else 1.0)
        checked = list(map(self._judge.check, utterances, read_headers(utterances)))
        kept = [item for item in checked if not isinstance(item, Skip)]
        self.utterances = tuple(utterance for utterance, _ in kept)
        self._tokens = [tokens for _, tokens in kept]
        self.record(item for item in checked if isinstance(item, Skip))
        if not kept:
            raise ValueError("\n  ".join(["there are no utterances to use", *map(str, self.skipped[:_MAX_SHOWN])]))

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def seconds(self) -> list[float]:
        """Return the duration of each utterance, as `epoch_batches` takes them; before padding and changes of speed."""
        return [utterance.seconds for utterance in self.utterances]

    def report(self) -> DataReport:
        """Return how much of the data is used, each skipped utterance with its reason, and changes of transcripts."""
        skipped = {skip.key for skip in self.skipped}
        used = [utterance for utterance in self.utterances if utterance.key not in skipped]
        return DataReport(len(used), sum(utterance.seconds for utterance in used) / 3600, self.skipped, self.notes())

    def decode_all(self) -> None:
        """Decode the audio of every utterance, and count those that training would skip when it loads them.

        Raises:
            ValueError: too many utterances are unusable.
        """
        with ThreadPoolExecutor(_DECODING_THREADS) as pool:
            decoded = pool.map(self._problem, range(len(self)))
            bar = progress_bar(decoded, len(self), "decode", "utt", leave=False, disable=len(self) < _LONG_LIST)
            self.record(filter(None, bar))

    @property
    def contents(self) -> DataContents:
        """Return hashes of keys, durations and token ids, from which a resumed run says what has changed."""
        return list_contents(
            (item.key, f"{item.seconds:.3f} {item.start} {item.channel}", tokens)
            for item, tokens in zip(self.utterances, self._tokens)
        )

    @property
    def digest(self) -> str:
        """Return the number of utterances and a checksum of keys and durations; epochs of equal digests are equal."""
        lines = (f"{utterance.key} {utterance.seconds:.3f}\n" for utterance in self.utterances)
        return f"{len(self)} utterances, checksum {hashlib.sha256(''.join(lines).encode()).hexdigest()[:12]}"

    def description(self) -> str:
        """Return the number of utterances, their hours, and how many are skipped."""
        report = self.report()
        return f"{report.utterances} utterances, {report.hours:.2f} h, {len(report.skipped)} skipped"

    def keeps_positions(self, before: int, now: int) -> bool:
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

        return Epoch(loaded(), len(rest[:most]))

    def batch(self, indices: Sequence[int], epoch: int) -> Batch:
        """Load the utterances of `indices` as a batch; random changes depend on seed, epoch and index only.

        An utterance that cannot be decoded is left out and counted. If none is left, the next readable utterance
        takes their place, so that every entry of a plan yields a batch.

        Raises:
            ValueError: too many utterances are unusable.
        """
        batch, skips = self.load(indices, epoch)
        self.record(skips)
        return batch

    def load(self, indices: Sequence[int], epoch: int) -> tuple[Batch, list[Skip]]:
        """Load a batch like `batch`, and return what was skipped instead of counting it; for worker processes."""
        rows: list[Row] = []
        skips: list[Skip] = []
        stand_ins = ((indices[-1] + step) % len(self) for step in range(1, _MAX_STAND_INS + 1))
        for number, index in enumerate(itertools.chain(indices, stand_ins)):
            if number >= len(indices) and rows:
                break
            loaded = self._load_samples(index, epoch)
            if isinstance(loaded, Skip):
                skips.append(loaded)
            else:
                rows.append(Row(self.utterances[index].key, loaded, self._tokens[index]))
        if not rows:
            raise ValueError("\n  ".join(["no utterance in a row could be read:", *map(str, skips[:_MAX_SHOWN])]))
        return pad_rows(rows, self.frontend.right_padding_samples), skips

    def keys(self, indices: Sequence[int]) -> list[str]:
        """Return the keys of some utterances."""
        return [self.utterances[index].key for index in indices]

    def record(self, skips: Iterable[Skip]) -> None:
        """Count skipped utterances, each one once.

        Raises:
            ValueError: more than the share `max_skipped` is unusable.
        """
        by_key = {skip.key: skip for skip in self.skipped}
        for skip in skips:
            by_key.setdefault(skip.key, skip)
        self.skipped = list(by_key.values())
        if len(self.skipped) > self._max_skipped * self._total:
            lines = list(map(str, self.skipped[:_MAX_SHOWN]))
            if len(self.skipped) > _MAX_SHOWN:
                lines.append("...")
            raise ValueError(
                "\n  ".join([f"{len(self.skipped)} of {self._total} utterances cannot be used:", *lines])
                + f"\nmore than {100 * self._max_skipped:g} % is too many: mend them, take them out of the list, "
                "or raise data.max_skipped"
            )

    def _problem(self, index: int) -> Skip | None:
        judged = self._judge.read(self.utterances[index], self._tokens[index])
        return judged if isinstance(judged, Skip) else None

    def notes(self) -> tuple[str, ...]:
        """Return what is changed in transcripts, if anything."""
        texts = {utterance.key: utterance.text for utterance in self.utterances}
        notes = [normalization_note(texts)]
        removed = self.tokenizer.special_tokens == "remove" and count_special_tokens(texts.values())
        if removed:
            notes.append(f"special tokens were removed from transcripts: {removed}")
        return tuple(filter(None, notes))

    def _load_samples(self, index: int, epoch: int) -> np.ndarray | Skip:
        utterance = self.utterances[index]
        try:
            samples = self._judge.read(utterance, self._tokens[index])
            if self._augmenter and not isinstance(samples, Skip):
                rng = np.random.default_rng([self._seed, epoch, index])
                samples = self._augmenter.augment(samples, rng)
        except (MemoryError, OSError):  # files of the augmentation: their message names them
            raise
        except Exception as error:
            path = printable(utterance.source.path)
            raise RuntimeError(f"while loading {utterance.key} ({path}): {error!r}") from error
        return samples
