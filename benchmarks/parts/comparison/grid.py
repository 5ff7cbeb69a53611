"""Decide which runs come next: the grid of settings, its extensions, all seeds, and runs at equal processor time."""

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

from parts.comparison.outcomes import Outcome, RunOutcomes
from parts.comparison.study import (
    BASELINE,
    CONFIGURATIONS,
    Configuration,
    RunSpec,
    Study,
    Task,
    choosing_updates,
    equal_updates,
)

SAME_TIME = 0.02  # up to this relative difference in updates, one run serves both comparisons


class Choice(NamedTuple):
    """The best settings of a configuration on the dev set."""

    rate: float
    warmup: int
    outcome: Outcome
    at_edge: bool  # the best rate is at an edge of the grid, and the grid may not grow further there


class GridState(NamedTuple):
    """The state of a configuration's grid: the required runs, and the best settings once they are known."""

    runs: tuple[RunSpec, ...]  # the runs required so far, in their order
    missing: tuple[RunSpec, ...]  # those of `runs` that have not ended
    choice: Choice | None  # None: runs are missing, or all diverged

    @property
    def rates(self) -> list[float]:
        """The rates of the runs, ascending."""
        return sorted({run.rate for run in self.runs})


def grid_runs(study: Study, size: str, configuration: Configuration, rates: Sequence[float]) -> list[RunSpec]:
    """Return the runs that choose among `rates`, all with the first warm-up."""
    return [_choosing_run(study, size, configuration, rate, study.warmups[0]) for rate in rates]


def _choosing_run(study: Study, size: str, configuration: Configuration, rate: float, warmup: int) -> RunSpec:
    """Return a run of the grid. Its number of updates and its seed are the same for every configuration."""
    return RunSpec(size, configuration, rate, warmup, study.choosing_seed, choosing_updates(study, size))


def choose(study: Study, size: str, configuration: Configuration, found: RunOutcomes) -> GridState:
    """Choose the best rate, then the best warm-up at that rate; return the state of the grid.

    If the best rate is at an edge, the grid grows by one rate beyond that edge. If all runs diverged, it grows by one
    rate below the lowest.
    """
    order, first = list(study.rates), sorted(study.rates)
    while True:
        rates = sorted(order)
        runs = grid_runs(study, size, configuration, order)
        missing = [run for run in runs if found.outcome(run) is None]
        if missing:
            return GridState(tuple(runs), tuple(missing), None)
        best = best_run(study, runs, found)
        assert best is not None
        all_diverged = best[1].status == "diverged"
        further = _beyond(rates, rates[0] if all_diverged else best[0].rate)
        below, above = sum(rate < first[0] for rate in rates), sum(rate > first[-1] for rate in rates)
        allowed = further is not None and (below if further < rates[0] else above) < study.most_extensions
        if further is None or not allowed:
            break
        order.append(further)
    runs += [_choosing_run(study, size, configuration, best[0].rate, warmup) for warmup in study.warmups[1:]]
    missing = [run for run in runs if found.outcome(run) is None]
    if missing:
        return GridState(tuple(runs), tuple(missing), None)
    best = best_run(study, runs, found)
    assert best is not None
    run, outcome = best
    choice = Choice(run.rate, run.warmup, outcome, further is not None)
    return GridState(tuple(runs), (), None if outcome.status == "diverged" else choice)


def best_run(study: Study, runs: Sequence[RunSpec], found: RunOutcomes) -> tuple[RunSpec, Outcome] | None:
    """Return the best of the runs that have ended; None if none has."""
    ended = [(run, outcome) for run in runs if (outcome := found.outcome(run)) is not None]
    return min(ended, key=lambda pair: pair[1].rank(study.choose_by), default=None)


def _beyond(rates: Sequence[float], best: float) -> float | None:
    """Return the next rate beyond the edge of the grid if the best rate is at an edge; otherwise None."""
    if best == rates[0]:
        return float(f"{rates[0] * rates[0] / rates[1]:.4g}")
    if best == rates[-1]:
        return float(f"{rates[-1] * rates[-1] / rates[-2]:.4g}")
    return None


def updates_at_equal_time(study: Study, size: str, configuration: Configuration, seconds: dict[str, float]) -> int:
    """Return the number of updates that take as much processor time as the baseline takes at equal updates.

    The learning rate schedule is scaled to this number. If the number differs from equal updates by at most 2 %, equal
    updates are returned, and the same runs count for both comparisons.
    """
    updates = equal_updates(study, size)
    scaled = round(updates * seconds[BASELINE.folder] / seconds[configuration.folder])
    return updates if abs(scaled - updates) <= SAME_TIME * updates else scaled


def compared_runs(study: Study, size: str, configuration: Configuration, choice: Choice, updates: int) -> list[RunSpec]:
    """Return a run for each seed, with the chosen settings."""
    seeds = study.seeds_of(study.size(size), configuration)
    return [RunSpec(size, configuration, choice.rate, choice.warmup, seed, updates) for seed in seeds]


class Plan(NamedTuple):
    """The remaining tasks in their order, and the numbers of trainings."""

    tasks: tuple[Task, ...]
    trainings: int  # expected total, finished ones included
    finished: int  # number of finished trainings


def plan(study: Study, found: RunOutcomes) -> Plan:
    """Return the remaining tasks: first FusionFormer and the baseline at every size, then the others."""
    tasks: list[Task] = []
    trainings = finished = 0
    for priority in sorted({configuration.priority for configuration in CONFIGURATIONS}):
        for size in (size.name for size in study.sizes):
            queues = []
            for configuration in (item for item in CONFIGURATIONS if item.priority == priority):
                runs = list(dict.fromkeys(_runs(study, size, configuration, found)))
                trainings += len(runs) + _later_runs(study, size, configuration, found)
                finished += sum(found.outcome(run) is not None for run, _ in runs)
                queues.append([task for run, compared in runs for task in _pending(run, compared, found)])
            tasks += [task for task in chain.from_iterable(zip_longest(*queues)) if task is not None]
            if study.equal_time and found.update_seconds(size) is None and Task("time", size) not in tasks:
                tasks.append(Task("time", size))
    return Plan(tuple(tasks), trainings, finished)


def _runs(study: Study, size: str, configuration: Configuration, found: RunOutcomes) -> Iterator[tuple[RunSpec, bool]]:
    """Yield the runs required so far; True beside a run means that its errors on the test set are compared."""
    state = choose(study, size, configuration, found)
    compared: dict[RunSpec, bool] = {}
    if state.choice is not None:
        budgets = [equal_updates(study, size)]
        seconds = found.update_seconds(size)
        if study.equal_time and seconds is not None:
            budgets.append(updates_at_equal_time(study, size, configuration, seconds))
        for updates in budgets:
            compared |= dict.fromkeys(compared_runs(study, size, configuration, state.choice, updates), True)
    for run in state.runs:
        yield run, compared.pop(run, False)
    yield from compared.items()


def _later_runs(study: Study, size: str, configuration: Configuration, found: RunOutcomes) -> int:
    """Return the number of further runs that are expected, whose settings are not known yet."""
    state, seeds = choose(study, size, configuration, found), study.seeds_of(study.size(size), configuration)
    has_unknown_time = study.equal_time and configuration != BASELINE and found.update_seconds(size) is None
    if state.missing:
        at_equal_time = len(seeds) if study.equal_time and configuration != BASELINE else 0
        is_shared = choosing_updates(study, size) == equal_updates(study, size)
        of_warmups = len(study.warmups) - 1 if len(state.runs) == len(state.rates) else 0
        compared = len([seed for seed in seeds if not is_shared or seed != study.choosing_seed])
        return of_warmups + compared + at_equal_time
    return len(seeds) if state.choice is not None and has_unknown_time else 0


def _pending(run: RunSpec, compared: bool, found: RunOutcomes) -> list[Task]:
    outcome = found.outcome(run)
    if outcome is None:
        return [Task("train", run.size, run)]
    # The transcripts of a diverged model are not compared.
    is_due = compared and outcome.status == "finished" and not found.is_evaluated(run)
    return [Task("evaluate", run.size, run)] if is_due else []
