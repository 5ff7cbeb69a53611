"""Time several calls by turns, so that disturbances of the machine affect all of them equally."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

# A sample is disturbed if another process used the processor for a larger share of its time.
MAX_WAITING = 0.05
FEWEST = 5  # undisturbed samples; if there are fewer, all samples count


class Timing(NamedTuple):
    """Milliseconds of one call."""

    median: float
    low: float  # quartiles
    high: float
    samples: int
    disturbed: int  # number of further samples, which do not count


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
    """Give every call a turn in each round; the order rotates.

    A turn is a call to fill the caches, then `timed` measured calls.

    Args:
        calls: the calls by name.
        rounds: number of rounds, 1 or more.
        timed: number of measured calls in a turn, 1 or more.
        tick: called after each turn.
        waits: the calls wait for another device, so time without the processor is no disturbance.
        shared: other work shares the core: count only the time in which this thread ran. For calls that compute in
            this thread alone.
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
