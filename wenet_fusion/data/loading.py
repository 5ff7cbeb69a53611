"""Load planned batches in order, in this process or in worker processes, and explain why a worker died."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from wenet_fusion_runtime.console import error_text

from wenet_fusion.data.batch import Batch
from wenet_fusion.data.judgement import Skip

T = TypeVar("T")
Planned = TypeVar("Planned", contravariant=True)  # the description of a batch in a plan

_SHARED_MEMORY = (
    "enlarge it (docker run --shm-size=1g ..., or remount /dev/shm), or set training.num_workers=0, which loads "
    "batches in the training process"
)
_KILLED = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ?[\d, ]+\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)"
)


class LoadsBatches(Protocol[Planned]):
    """Loads planned batches, in this process or in worker processes.

    >>> [name for name in vars(LoadsBatches) if not name.startswith("_")]
    ['load', 'record', 'keys']
    """

    def load(self, planned: Planned, epoch: int) -> tuple[Batch, list[Skip]]:
        """Load a batch; return it with the skipped utterances. Random changes depend on the epoch."""

    def record(self, skips: Iterable[Skip]) -> None:
        """Count skipped utterances; raise ValueError if they are too many."""

    def keys(self, planned: Planned) -> Sequence[str]:
        """Return the keys of a planned batch."""


class _Loader(Dataset, Generic[Planned]):
    """A dataset for DataLoader; the sampler yields planned batches instead of indices."""

    def __init__(self, data: LoadsBatches[Planned], epoch: int) -> None:
        self._data, self._epoch = data, epoch

    def __getitem__(self, planned: Planned) -> tuple[Batch, list[Skip]] | Exception:
        try:
            batch, skips = self._data.load(planned, self._epoch)
        except (ValueError, OSError) as error:  # DataLoader would put a raised error's traceback into its message
            return error
        except MemoryError as error:
            keys = self._data.keys(planned)
            return OSError(
                f"{error_text(error).partition(';')[0]} while loading {len(keys)} utterances ({keys[0]}, ...): lower "
                "training.num_workers or training.max_batch_seconds"
            )
        return (_portable(batch) if get_worker_info() else batch), skips


def _portable(batch: Batch) -> Batch:
    """Return a batch in a form that can be sent to another process.

    Samples are sent through shared memory, which is ten times as fast as a pipe. If shared memory is full (Docker
    containers have 64 MB), samples become an array, which is sent through the pipe; DataLoader itself would wait for
    ever. The small tensors are always sent through the pipe.
    """
    try:
        samples = batch.samples_BN.share_memory_()
    except RuntimeError:
        samples = batch.samples_BN.numpy()  # `_received` makes it a tensor again
    rest = {name: getattr(batch, name).numpy() for name in ("sample_lengths_B", "tokens_BU", "token_lengths_B")}
    return batch._replace(samples_BN=samples, **rest)


def _received(batch: Batch) -> Batch:
    return Batch(batch.keys, *(torch.as_tensor(value) for value in batch[1:]))


def iterate(data: LoadsBatches[T], plan: Iterable[T], epoch: int, num_workers: int) -> Iterator[Batch]:
    """Load the batches of a plan in order, without changing torch's global random state.

    Args:
        data: loads a batch and counts skipped utterances.
        plan: descriptions of batches that `data` can load, such as indices from `epoch_batches`; consumed lazily.
        epoch: number of the epoch, on which random changes depend.
        num_workers: processes that load; 0: load in this process. The batches do not depend on it.

    Raises:
        ValueError: too many utterances are unusable.
        OSError: a process that loads batches was killed, or could not be started; or memory ran out.
    """
    loader = DataLoader(
        _Loader(data, epoch),
        batch_size=None,
        sampler=plan,
        collate_fn=_unchanged,
        num_workers=num_workers,
        # By default, every new iterator draws from the global generator, so resumed runs would differ.
        generator=torch.Generator(),
        worker_init_fn=_start_worker,
    )
    try:
        batches = iter(loader)
    except OSError as error:
        if not num_workers:
            raise
        raise OSError(
            f"training.num_workers {num_workers}: processes that load batches cannot be started ({error}); if shared "
            f"memory is too small, {_SHARED_MEMORY}"
        ) from error
    for _ in itertools.count():
        try:
            loaded = next(batches, None)
        except RuntimeError as error:
            raise worker_failure(error) or error from None
        if loaded is None:
            return
        if isinstance(loaded, Exception):
            raise loaded
        batch, skips = loaded
        data.record(skips)
        yield _received(batch)


def worker_failure(error: RuntimeError) -> OSError | None:
    """Return an error that says why a loading process died, and the remedy; None for an error of another kind.

    DataLoader may raise its error anywhere in the main thread, from a signal handler.

    >>> print(worker_failure(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")))
    a process that loads batches was killed (Killed): most often memory ran out, and the system's log (dmesg) says so; \
lower training.num_workers or training.max_batch_seconds
    """
    text = f"{error.__context__} {error.__cause__} {error}"  # any of these may name the signal
    found = _KILLED.search(text)
    if found is None:
        return None
    what = f"a process that loads batches was killed ({found[1] or 'no signal is known'})"
    if "Bus error" in text:
        return OSError(f"{what}: shared memory is full; {_SHARED_MEMORY}")
    return OSError(
        f"{what}: most often memory ran out, and the system's log (dmesg) says so; lower training.num_workers or "
        "training.max_batch_seconds"
    )


def _unchanged(item: T) -> T:
    return item


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)  # one thread each: the processes together use all cores
    # Slurm, systemd and timeout(1) send SIGTERM to all processes at once. Workers ignore the first one: training saves
    # its state before it ends them, and would fail if one died earlier. A second SIGTERM ends a worker.
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
