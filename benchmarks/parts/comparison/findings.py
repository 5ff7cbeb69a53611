"""Collect the results of the finished runs of a comparison."""

from typing import Any, NamedTuple

from parts.comparison.grid import Choice, GridState, best_run, choose, compared_runs, updates_at_equal_time
from parts.comparison.outcomes import Outcome, RunFolders
from parts.comparison.seed_intervals import Condition, Errors, read_errors
from parts.comparison.study import BASELINE, CONFIGURATIONS, Configuration, Measure, RunSpec, Study, equal_updates


class Compared(NamedTuple):
    """Results over seeds, at the chosen settings: errors of the evaluated runs, and the number of diverged runs."""

    updates: int
    wanted: int  # planned number of seeds
    runs: tuple[RunSpec, ...]  # runs that have been evaluated
    errors: dict[Condition, Errors]
    diverged: int  # number of seeds that diverged


class Findings(NamedTuple):
    """Results of one configuration at one size."""

    configuration: Configuration
    grid_state: GridState
    grid: dict[RunSpec, Outcome]
    shown: tuple[RunSpec, Outcome] | None  # the run whose curves are shown: see `_shown`
    equal_updates: Compared | None  # None: the settings are not chosen yet
    equal_time: Compared | None

    @property
    def diverged(self) -> int:
        """The number of runs of the grid that diverged."""
        return sum(outcome.status == "diverged" for outcome in self.grid.values())


class SizeFindings(NamedTuple):
    """Results of all configurations at one size."""

    size: str
    updates: int
    choose_by: Measure  # see `Study`
    configurations: tuple[Findings, ...]
    times: dict[str, Any] | None  # see `comparison_times.measure_times`

    @property
    def baseline(self) -> Findings:
        """The results of the baseline."""
        return next(found for found in self.configurations if found.configuration == BASELINE)


def collect(study: Study, folders: RunFolders) -> list[SizeFindings]:
    """Read all finished runs of a comparison."""
    return [
        SizeFindings(
            size.name,
            equal_updates(study, size.name),
            study.choose_by,
            tuple(_findings(study, size.name, item, folders) for item in CONFIGURATIONS),
            folders.times(size.name),
        )
        for size in study.sizes
    ]


def _findings(study: Study, size: str, configuration: Configuration, folders: RunFolders) -> Findings:
    state = choose(study, size, configuration, folders)
    grid = {run: outcome for run in state.runs if (outcome := folders.outcome(run)) is not None}
    same = at_equal_time = None
    if state.choice is not None:
        same = _compared(study, size, configuration, state.choice, equal_updates(study, size), folders)
        seconds = folders.update_seconds(size)
        if study.equal_time and seconds is not None:
            updates = updates_at_equal_time(study, size, configuration, seconds)
            at_equal_time = _compared(study, size, configuration, state.choice, updates, folders)
    return Findings(configuration, state, grid, _shown(study, size, configuration, state, folders), same, at_equal_time)


def _shown(
    study: Study, size: str, configuration: Configuration, state: GridState, folders: RunFolders
) -> tuple[RunSpec, Outcome] | None:
    """Return the first compared run of a configuration; before its end, the best run of the grid so far."""
    if state.choice is not None:
        run = compared_runs(study, size, configuration, state.choice, equal_updates(study, size))[0]
        if (outcome := folders.outcome(run)) is not None:
            return run, outcome
    return best_run(study, state.runs, folders)


def _compared(
    study: Study, size: str, configuration: Configuration, choice: Choice, updates: int, folders: RunFolders
) -> Compared:
    runs = compared_runs(study, size, configuration, choice, updates)
    evaluated = tuple(run for run in runs if folders.is_evaluated(run))
    errors = read_errors([folders.evaluation_path(run) for run in evaluated]) if evaluated else {}
    outcomes = [folders.outcome(run) for run in runs]
    diverged = sum(outcome is not None and outcome.status == "diverged" for outcome in outcomes)
    return Compared(updates, len(runs), evaluated, errors, diverged)
