"""Utterances -> padded batches of samples and unit ids, what cannot be used being counted; knows no model."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from wenet_fusion.data.augmentation import Augmentation, augment
from wenet_fusion.data.sources import AudioHeader, Utterance, read_headers, read_samples
from wenet_fusion.model.ctc import frames_needed
from wenet_fusion.text.tokenizer import Tokenizer, UnknownToken

T = TypeVar("T")

_MAX_SHOWN = 10
# So many utterances in a row may fail, where a whole batch failed, before the data is given up.
_MAX_STAND_INS = 20


class FrontendGeometry(NamedTuple):
    """What a model expects of its samples."""

    sample_rate: int
    frame_samples: int  # samples per encoder frame
    tail_samples: int  # zeros that end every utterance


class Batch(NamedTuple):
    """B utterances, zero-padded; lengths include the tail."""

    keys: tuple[str, ...]
    samples_BN: torch.Tensor  # float32 in [-1, 1]
    sample_lengths_B: torch.Tensor  # int64
    tokens_BU: torch.Tensor  # int64
    token_lengths_B: torch.Tensor  # int64


class Skip(NamedTuple):
    """An utterance that is not used."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


class DataReport(NamedTuple):
    """What training makes of a data list."""

    utterances: int  # that it uses
    hours: float  # of those
    skipped: list[Skip]


class SpeechDataset:
    """Utterances that can be used, in their order; indices count these. `skipped` lists the others.

    Audio with a header that cannot be read, or too short for its transcript, and transcripts with unknown units are
    found here; audio that fails to decode is found, and skipped, when its batch is loaded.
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
        """`seed` starts the draws of the augmentation.

        Raises ValueError if more than the fraction `max_skipped` of the utterances cannot be used, now or later.
        """
        self.tokenizer = tokenizer
        self.frontend = frontend
        self.skipped: list[Skip] = []
        self._augmentation = augmentation
        self._seed = seed
        self._max_skipped = max_skipped
        self._total = len(utterances)
        self._fastest = max(augmentation.speed_factors) if augmentation else 1.0
        checked = [self._check(utterance, header) for utterance, header in zip(utterances, read_headers(utterances))]
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
        """Durations by index, as `epoch_batches` wants them; without tail and change of speed."""
        return [utterance.seconds for utterance in self.utterances]

    def report(self) -> DataReport:
        """Return how much of the data is used, and each skipped utterance with its reason."""
        return DataReport(len(self), sum(self.seconds) / 3600, self.skipped)

    @property
    def digest(self) -> str:
        """Number of utterances and a checksum over keys and durations: whether epochs are made of the same batches."""
        lines = (f"{utterance.key} {utterance.seconds:.3f}\n" for utterance in self.utterances)
        return f"{len(self)} utterances, checksum {hashlib.sha256(''.join(lines).encode()).hexdigest()[:12]}"

    def batch(self, indices: Sequence[int], epoch: int) -> Batch:
        """The utterances of `indices`. What is drawn depends on seed, epoch and index only.

        An utterance that cannot be decoded is left out and counted. Where that leaves none, the next readable
        utterance stands in, so that a plan yields as many batches as it has entries.
        """
        batch, skips = self.load(indices, epoch)
        self.record(skips)
        return batch

    def load(self, indices: Sequence[int], epoch: int) -> tuple[Batch, list[Skip]]:
        """Like `batch`, but leaves the counting to the caller: for worker processes, whose memory is not ours."""
        rows: list[tuple[int, np.ndarray]] = []
        skips: list[Skip] = []
        stand_ins = ((indices[-1] + step) % len(self) for step in range(1, _MAX_STAND_INS + 1))
        for number, index in enumerate(itertools.chain(indices, stand_ins)):
            if number >= len(indices) and rows:
                break
            loaded = self._load_samples(index, epoch)
            if isinstance(loaded, Skip):
                skips.append(loaded)
            else:
                rows.append((index, loaded))
        if not rows:
            raise ValueError("\n  ".join(["no utterance in a row could be read:", *map(str, skips[:_MAX_SHOWN])]))
        return self._pad(rows), skips

    def record(self, skips: Iterable[Skip]) -> None:
        """Count skips, each utterance once. Raises ValueError above the threshold."""
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
                "or raise max_skipped"
            )

    def _check(self, utterance: Utterance, header: AudioHeader | str) -> tuple[Utterance, list[int]] | Skip:
        if isinstance(header, str):
            return Skip(utterance.key, header)
        try:
            tokens = self.tokenizer.encode(utterance.text)
        except UnknownToken as error:
            return Skip(utterance.key, str(error))
        reason = self._too_short(int(header.seconds * self.frontend.sample_rate / self._fastest), tokens)
        if reason:
            return Skip(utterance.key, f"{utterance.source.path}: {reason}")
        return replace(utterance, seconds=header.seconds), tokens

    def _too_short(self, samples: int, tokens: Sequence[int]) -> str:
        frames = -(-(samples + self.frontend.tail_samples) // self.frontend.frame_samples)
        needed = frames_needed(tokens)
        if frames >= needed:
            return ""
        speed = f" at the highest speed factor {self._fastest:g}" if self._fastest > 1 else ""
        return f"{frames} frames{speed} are too few for the {needed} that its {len(tokens)} units need"

    def _load_samples(self, index: int, epoch: int) -> np.ndarray | Skip:
        utterance = self.utterances[index]
        try:
            samples = read_samples(utterance, self.frontend.sample_rate)
            if self._augmentation:
                rng = np.random.default_rng([self._seed, epoch, index])
                samples = augment(samples, self._augmentation, rng)
        except (ValueError, OSError) as error:
            return Skip(utterance.key, str(error))
        except Exception as error:
            raise RuntimeError(f"while loading {utterance.key} ({utterance.source.path}): {error!r}") from error
        # Headers of compressed audio may promise a little more than there is.
        reason = self._too_short(samples.size, self._tokens[index])
        return Skip(utterance.key, f"{utterance.source.path}: {reason}") if reason else samples

    def _pad(self, rows: Sequence[tuple[int, np.ndarray]]) -> Batch:
        tokens = [self._tokens[index] for index, _ in rows]
        sample_lengths = [samples.size + self.frontend.tail_samples for _, samples in rows]
        token_lengths = [len(ids) for ids in tokens]
        samples_BN = torch.zeros(len(rows), max(sample_lengths))
        tokens_BU = torch.zeros(len(rows), max(token_lengths), dtype=torch.int64)
        for row, ((_, samples), ids) in enumerate(zip(rows, tokens)):
            samples_BN[row, : samples.size] = torch.from_numpy(samples)
            tokens_BU[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return Batch(
            keys=tuple(self.utterances[index].key for index, _ in rows),
            samples_BN=samples_BN,
            sample_lengths_B=torch.tensor(sample_lengths),
            tokens_BU=tokens_BU,
            token_lengths_B=torch.tensor(token_lengths),
        )


class _Plan(Dataset):
    """Batches by their place in the plan, as DataLoader wants them."""

    def __init__(self, dataset: SpeechDataset, plan: Sequence[Sequence[int]], epoch: int) -> None:
        self._dataset, self._plan, self._epoch = dataset, plan, epoch

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, number: int) -> tuple[Batch, list[Skip]] | ValueError:
        try:
            return self._dataset.load(self._plan[number], self._epoch)
        except ValueError as error:  # raised in a worker, it would arrive with the worker's traceback as its message
            return error


def iterate(dataset: SpeechDataset, plan: Sequence[Sequence[int]], epoch: int, num_workers: int) -> Iterator[Batch]:
    """One batch for every entry of `plan`, in its order, loaded by `num_workers` processes (0: by this one).

    The batches do not depend on `num_workers`, and torch's global random state is left alone.
    """
    loader = DataLoader(
        _Plan(dataset, plan, epoch),
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=num_workers,
        # Without one of its own every new iterator would draw from the global generator, and resumed runs would differ.
        generator=torch.Generator(),
        worker_init_fn=_start_worker,
    )
    for loaded in loader:
        if isinstance(loaded, ValueError):
            raise loaded
        batch, skips = loaded
        dataset.record(skips)
        yield batch


def _unchanged(item: T) -> T:
    return item


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)  # one process per core already
