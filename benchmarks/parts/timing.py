"""Time several functions by turns, so that other work on the machine disturbs all of them equally."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

# A sample is disturbed if its thread waited for the processor during a larger share of the time.
MAX_WAITING = 0.05
FEWEST = 5  # if there are fewer undisturbed samples than this, all samples count


class Timing(NamedTuple):
    """Times of one function, in milliseconds."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    samples: int  # number of samples that count
    disturbed: int  # number of samples that do not count


class _Sample(NamedTuple):
    milliseconds: float
    disturbed: bool


def by_turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    timed: int,
    tick: Callable[[], object],
    waits: bool = False,
    shared: bool = False,
) -> dict[str, Timing]:
    """Time functions by turns: in each round every function has one turn, and the order rotates from round to round.

    A turn is one call to fill the caches, then `timed` measured calls.

    Args:
        calls: the functions by name.
        rounds: number of rounds, 1 or more.
        timed: number of measured calls in a turn, 1 or more.
        tick: called after each turn.
        waits: the functions wait for a device or another process, so waiting is no disturbance.
        shared: count only processor time of this thread, because other work shares the core. Use it only for functions
            that compute in this thread alone.
    """
    samples: dict[str, list[_Sample]] = {name: [] for name in calls}
    for name in _turns(list(calls), rounds):
        calls[name]()
        samples[name] += [_measure(calls[name], waits, shared) for _ in range(timed)]
        tick()
    return {name: _summary(found) for name, found in samples.items()}


def _turns(names: Sequence[str], rounds: int) -> Iterator[str]:
    for index in range(rounds):
        start = index % len(names)
        yield from [*names[start:], *names[:start]]


def _measure(call: Callable[[], object], waits: bool, shared: bool) -> _Sample:
    used, start = time.thread_time(), time.perf_counter()
    call()
    elapsed, used = time.perf_counter() - start, time.thread_time() - used
    if shared:
        return _Sample(1000 * used, False)
    return _Sample(1000 * elapsed, not waits and elapsed - used > MAX_WAITING * elapsed)


def _summary(samples: Sequence[_Sample]) -> Timing:
    clean = [sample.milliseconds for sample in samples if not sample.disturbed]
    used = clean if len(clean) >= min(FEWEST, len(samples)) else [sample.milliseconds for sample in samples]
    low, median, high = statistics.quantiles(used, n=4, method="inclusive") if len(used) > 1 else used * 3
    return Timing(median, low, high, len(used), len(samples) - len(used))
