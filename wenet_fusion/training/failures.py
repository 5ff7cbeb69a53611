"""Explain out-of-memory errors and killed processes."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from wenet_fusion_runtime.console import is_out_of_memory

from wenet_fusion.data.batch import Batch
from wenet_fusion.data.loading import worker_failure

_GOES_ON = "the same command then goes on from the last saved state"


@contextlib.contextmanager
def explaining_failures(work: Callable[[], str]) -> Iterator[None]:
    """Turn out-of-memory errors and the death of a process that loads batches into an OSError with a remedy.

    Args:
        work: returns a description of the current work and its batch.

    >>> with explaining_failures(lambda: "in step 7, with training.max_batch_seconds: 400"):
    ...     raise MemoryError
    Traceback (most recent call last):
    OSError: memory ran out in step 7, with training.max_batch_seconds: 400: lower it, and raise training.accumulate \
by the same factor; the same command then goes on from the last saved state
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            reason = str(error).splitlines()[0] if str(error) else ""
            raise OSError(
                f"memory ran out {work()}: lower it, and raise training.accumulate by the same factor; {_GOES_ON}"
                + (f" ({reason})" if reason else "")
            ) from error
        explained = worker_failure(error) if isinstance(error, RuntimeError) else None
        if explained is None:
            raise
        raise OSError(f"{explained}; {_GOES_ON}") from error


def describe_update(step: int, batches: Sequence[Batch], sample_rate: int, max_batch_seconds: float) -> str:
    """Describe an update, its largest batch, and the setting that limits the size of batches.

    Args:
        step: number of the update.
        batches: batches of the update; empty between two updates.
        sample_rate: rate of the samples, Hz.
        max_batch_seconds: value of the setting.

    >>> describe_update(7, [], 16000, 400.0)
    'after step 7, with training.max_batch_seconds: 400'
    """
    limit = f"with training.max_batch_seconds: {max_batch_seconds:g}"
    if not batches:
        return f"after step {step}, {limit}"
    batch = max(batches, key=lambda batch: batch.samples_BN.numel())
    seconds, longest = batch.samples_BN.numel() / sample_rate, batch.samples_BN.size(1) / sample_rate
    return (
        f"in step {step}, in a batch of {len(batch.keys)} utterances and {seconds:.1f} s, padding included (the "
        f"longest has {longest:.1f} s: {batch.keys[int(batch.sample_lengths_B.argmax())]}), {limit}"
    )
