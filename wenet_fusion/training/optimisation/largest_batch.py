"""Try the largest batch of an epoch before training, so that too little memory is noticed at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from wenet_fusion_runtime.console import is_out_of_memory

from wenet_fusion.data.batch import Batch
from wenet_fusion.data.batching import BatchSize
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.ranks import Ranks
from wenet_fusion.training.optimisation.trial import leaving_no_trace
from wenet_fusion.training.optimisation.update import Gradients

_SEARCH_STEPS = 4  # most trials between a number of rows that fits and one that does not


def check_largest_batches(
    sizes: Sequence[BatchSize], step: int, gradients: Gradients, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """Run batches of these sizes forward and backward, without changing the run.

    The batches hold noise, because only their size matters. Every rank must call this function with the same sizes.

    Args:
        sizes: sizes of the batches that need the most memory in an epoch.
        step: number of an update in which all losses are active, also those that start late.
        gradients: computes the gradients; its model is in training mode.
        optimizer: if it has no moments yet, memory for them is reserved during the trial.
        ranks: this process and the others.

    Raises:
        OSError: memory ran out; the message names a lower `max_batch_seconds`, or says that an utterance is too long.
    """
    model = gradients.model
    device = next(model.parameters()).device

    def try_size(size: BatchSize) -> None:
        moments = 0 if optimizer.state else 2 * sum(parameter.numel() for parameter in model.parameters())
        room = torch.empty(moments, device=device)
        gradients.repeat(step, [made_batch(size, model.config.frontend.sample_rate, model.vocabulary_size)])
        del room

    with leaving_no_trace(model):
        for size in sizes:
            _check(size, try_size, model, ranks)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _check(size: BatchSize, try_size: Callable[[BatchSize], None], model: AsrModel, ranks: Ranks) -> None:
    reason = ""

    def fits(rows: int) -> bool:
        nonlocal reason
        try:
            try_size(size._replace(rows=rows))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = reason or str(error).splitlines()[0] if str(error) else reason
            return False
        finally:
            for parameter in model.parameters():
                parameter.grad = None
        return True

    if ranks.world > 1:  # no search: a rank cannot try another size alone, because BatchNorms wait for all ranks
        if fits(size.rows):
            return
        found = size.rows // 2
    else:
        found = rows_that_fit(size.rows, fits)
        if found == size.rows:
            return
    what = f"{size.rows} utterances of {size.seconds:.1f} s and {size.tokens} tokens"
    remedy = (
        f"set training.max_batch_seconds={int(found * size.seconds)} or lower, and raise training.accumulate to match"
        if found
        else "one such utterance is too long: take the longest ones out of the list"
    )
    raise OSError(
        f"memory ran out before training, in a trial of the largest batch ({what}): {remedy}; "
        f"training.check_largest_batch=false skips the trial" + (f" ({reason})" if reason else "")
    )


def made_batch(size: BatchSize, sample_rate: int, vocabulary_size: int) -> Batch:
    """Return a batch of the given size: faint noise as audio, and tokens without immediate repetitions.

    >>> made_batch(BatchSize(rows=2, seconds=0.5, tokens=3), sample_rate=8000, vocabulary_size=10).tokens_BU.tolist()
    [[3, 4, 5], [3, 4, 5]]
    """
    generator = torch.Generator().manual_seed(0)
    samples_BN = 0.01 * torch.randn(
        size.rows, math.ceil(size.seconds * size.stretch * sample_rate), generator=generator
    )
    ids = 3 + torch.arange(size.tokens) % max(vocabulary_size - 3, 1)
    lengths = torch.full((size.rows,), samples_BN.size(1)), torch.full((size.rows,), size.tokens)
    keys = tuple(f"row {row}" for row in range(size.rows))
    return Batch(keys, samples_BN, lengths[0], ids.clamp(max=vocabulary_size - 1).expand(size.rows, -1), lengths[1])


def rows_that_fit(rows: int, fits: Callable[[int], bool]) -> int:
    """Return roughly the largest number of rows that fits, at most `rows`; 0 if not even 1 row fits.

    Args:
        rows: rows of the largest batch.
        fits: tries a number of rows and returns whether it fits into memory.

    >>> rows_that_fit(40, lambda rows: rows <= 13)
    13
    """
    if fits(rows):
        return rows
    good, bad = 0, rows
    while good == 0 and bad > 1:
        tried = bad // 2
        good, bad = (tried, bad) if fits(tried) else (0, tried)
    for _ in range(_SEARCH_STEPS if good else 0):
        middle = (good + bad) // 2
        if middle - good < max(1, bad // 10):
            break
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good
