"""The comparison of the paper's models: the grid, its edges, seeds, equal updates and equal processor time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
from parts.comparison.grid import choose, compared_runs, grid_runs, plan, updates_at_equal_time
from parts.comparison.outcomes import Outcome
from parts.comparison.study import (
    BASELINE,
    CONFIGURATIONS,
    OURS,
    RunSpec,
    Size,
    Study,
    encoder_overrides,
    read_study,
    recipe_of,
    run_overrides,
    warmup_of,
)
from support.recipes.comparison_runs import KnownRuns, error_at, small_study, trainings

from wenet_fusion.config import ConfigError
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.layers.norm import norms

RECIPE = Path(__file__).parents[2] / "examples" / "digits" / "s0"


def known(study: Study, best: float, rates: list[float]) -> KnownRuns:
    """Return the baseline's runs at these rates; the error is smallest at `best`."""
    return KnownRuns({run: error_at(run.rate, best) for run in grid_runs(study, "toy", BASELINE, rates)})


@pytest.mark.parametrize(("best", "further"), [(0.004, 0.008), (0.1, 0.008), (0.0005, 0.00025), (0.0, 0.00025)])
def test_the_grid_grows_beyond_the_edge_that_is_best(tmp_path: Path, best: float, further: float) -> None:
    study = small_study(tmp_path)
    chosen = choose(study, "toy", BASELINE, known(study, best, list(study.rates)))
    assert chosen.choice is None and [run.rate for run in chosen.missing] == [further]


def test_a_rate_is_chosen_between_two_that_are_worse(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    for best in (0.001, 0.002, 0.006, 0.0003):
        rates = [0.000125, 0.00025, *study.rates, 0.008, 0.016]
        found = known(study, best, rates)
        chosen = choose(study, "toy", BASELINE, found)
        assert chosen.choice is not None and not chosen.choice.at_edge
        assert chosen.rates[0] < chosen.choice.rate < chosen.rates[-1]
        assert chosen.choice.outcome.dev_wer == min(error_at(rate, best).dev_wer for rate in chosen.rates)


def test_an_edge_is_named_where_the_grid_may_not_grow(tmp_path: Path) -> None:
    study = small_study(tmp_path, most_extensions=1)
    chosen = choose(study, "toy", BASELINE, known(study, 1.0, [*study.rates, 0.008]))
    assert chosen.choice is not None and chosen.choice.rate == 0.008 and chosen.choice.at_edge


def test_equal_errors_are_decided_by_the_loss(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    runs = grid_runs(study, "toy", OURS, study.rates)
    losses = {0.001: 3.0, 0.002: 2.0, 0.0005: 9.0, 0.004: 9.0}
    found = KnownRuns({run: Outcome("finished", "", 40, 0.02, losses[run.rate]) for run in runs})
    chosen = choose(study, "toy", OURS, found)
    assert chosen.choice is not None and chosen.choice.rate == 0.002


def test_a_study_of_short_runs_chooses_by_the_loss(tmp_path: Path) -> None:
    study = small_study(tmp_path, choose_by="loss")
    errors = {0.001: (0.99, 70.0), 0.002: (1.0, 60.0), 0.0005: (0.98, 80.0), 0.004: (0.97, 75.0)}
    runs = grid_runs(study, "toy", OURS, study.rates)
    found = KnownRuns({run: Outcome("finished", "", 40, *errors[run.rate]) for run in runs})
    chosen = choose(study, "toy", OURS, found)
    assert chosen.choice is not None and chosen.choice.rate == 0.002


def test_where_all_runs_diverge_lower_rates_are_tried_and_nothing_is_chosen(tmp_path: Path) -> None:
    study, diverged = small_study(tmp_path, most_extensions=2), Outcome("diverged", "dev WER 100.0 %", 40, 1.0, 9.0)
    found = KnownRuns(dict.fromkeys(grid_runs(study, "toy", BASELINE, study.rates), diverged))
    assert [run.rate for run in choose(study, "toy", BASELINE, found).missing] == [0.00025]
    rates = [*study.rates, 0.00025, 0.000125]
    found = KnownRuns(dict.fromkeys(grid_runs(study, "toy", BASELINE, rates), diverged))
    chosen = choose(study, "toy", BASELINE, found)
    assert chosen.choice is None and chosen.missing == ()
    assert all(run.configuration != BASELINE for run in trainings(plan(study, found).tasks))


def test_all_configurations_have_the_same_grid_and_updates(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    runs = trainings(plan(study, KnownRuns()).tasks)
    grids = {
        item: {(run.rate, run.warmup, run.seed, run.updates) for run in runs if run.configuration == item}
        for item in CONFIGURATIONS
    }
    assert len(grids[BASELINE]) == 4 and set(map(frozenset, grids.values())) == {frozenset(grids[BASELINE])}
    assert {run.updates for run in runs} == {40}


def test_other_warmups_are_tried_with_the_best_rate_alone(tmp_path: Path) -> None:
    study = small_study(tmp_path, warmups=(10, 20, 30), equal_time=False)
    found = known(study, 0.002, list(study.rates))
    chosen = choose(study, "toy", BASELINE, found)
    assert chosen.choice is None and [(run.rate, run.warmup) for run in chosen.missing] == [(0.002, 20), (0.002, 30)]
    found.outcomes |= {run: Outcome("finished", "", 40, 0.5, 1.0) for run in chosen.missing}
    kept = choose(study, "toy", BASELINE, found).choice
    assert kept is not None and (kept.rate, kept.warmup) == (0.002, 10)
    found.outcomes[chosen.missing[1]] = Outcome("finished", "", 40, 0.0, 0.5)
    changed = choose(study, "toy", BASELINE, found)
    assert changed.choice is not None and (changed.choice.rate, changed.choice.warmup) == (0.002, 30)
    assert len(changed.runs) == 6 and changed.rates == sorted(study.rates)
    runs = trainings(plan(study, found).tasks)
    assert {(run.rate, run.warmup) for run in runs if run.configuration == BASELINE} == {(0.002, 30)}
    assert plan(study, KnownRuns()).trainings == len(CONFIGURATIONS) * (4 + 2 + 2)  # seed 0 was trained for the grid


def test_a_longer_warmup_can_save_what_diverges_at_every_rate(tmp_path: Path) -> None:
    study = small_study(tmp_path, most_extensions=0, warmups=(10, 30))
    diverged = Outcome("diverged", "dev WER 100.0 %", 40, 1.0, 9.0)
    found = KnownRuns(dict.fromkeys(grid_runs(study, "toy", BASELINE, study.rates), diverged))
    (saved,) = choose(study, "toy", BASELINE, found).missing
    found.outcomes[saved] = Outcome("finished", "", 40, 0.1, 1.0)
    choice = choose(study, "toy", BASELINE, found).choice
    assert choice is not None and choice.warmup == 30


@pytest.mark.parametrize(("updates", "warmup"), [(40, 12), (20, 6), (60, 18), (1, 1)])
def test_the_warmup_is_the_same_share_of_every_run(tmp_path: Path, updates: int, warmup: int) -> None:
    study = small_study(tmp_path)
    run = RunSpec("toy", OURS, 0.001, 12, 0, updates)
    assert warmup_of(study, run) == warmup
    assert f"training.optim.warmup_steps={warmup}" in run_overrides(study, run, tmp_path)


@pytest.mark.parametrize(("given", "updates", "frozen"), [(8, 40, 8), (8, 20, 4), (0, 20, 0), (-1, 20, -1)])
def test_constant_statistics_are_the_same_share_of_every_run(
    tmp_path: Path, given: int, updates: int, frozen: int
) -> None:
    size = Size("toy", (f"training.frozen_statistics_steps={given}",))
    study = small_study(tmp_path, sizes=(size,))
    overrides = run_overrides(study, RunSpec("toy", OURS, 0.001, 12, 0, updates), tmp_path)
    assert f"training.frozen_statistics_steps={frozen}" in overrides


def test_a_sentencepiece_model_of_the_recipe_is_used(tmp_path: Path) -> None:
    study, run = small_study(tmp_path), RunSpec("toy", OURS, 0.001, 12, 0, 40)
    assert not any("bpe" in each for each in run_overrides(study, run, tmp_path))
    (tmp_path / "lang").mkdir()
    (tmp_path / "lang" / "bpe.model").touch()
    overrides = run_overrides(study, run, tmp_path)
    assert "tokenizer.kind=bpe" in overrides and f"tokenizer.bpe_model={tmp_path / 'lang' / 'bpe.model'}" in overrides


def all_known(study: Study, seconds: dict[str, float] | None) -> KnownRuns:
    """Return a finished grid of every configuration."""
    found = KnownRuns(seconds=seconds)
    for item in CONFIGURATIONS:
        found.outcomes |= {run: error_at(run.rate, 0.002) for run in grid_runs(study, "toy", item, study.rates)}
    return found


def test_the_compared_seeds_have_equal_updates(tmp_path: Path) -> None:
    study = small_study(tmp_path, equal_time=False)
    runs = trainings(plan(study, all_known(study, None)).tasks)
    assert {(run.rate, run.updates) for run in runs} == {(0.002, 40)}
    assert len(runs) == 2 * len(CONFIGURATIONS)  # seed 0 was trained for the grid


def test_equal_time_gives_faster_configurations_more_updates(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    seconds = {item.folder: 0.5 for item in CONFIGURATIONS} | {OURS.folder: 0.4, "no_norms": 0.495}
    updates = {item.folder: updates_at_equal_time(study, "toy", item, seconds) for item in CONFIGURATIONS}
    assert updates[BASELINE.folder] == 40 and updates[OURS.folder] == 50
    assert updates["no_norms"] == 40  # 1 % more time is the same time
    runs = trainings(plan(study, all_known(study, seconds)).tasks)
    assert sorted(run.updates for run in runs if run.configuration == OURS) == [40, 40, 50, 50, 50]
    assert {run.updates for run in runs if run.configuration != OURS} == {40}


def test_times_are_measured_before_they_are_needed(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    tasks = plan(study, all_known(study, None)).tasks
    kinds = [task.kind for task in tasks]
    assert kinds.count("time") == 1 and plan(study, KnownRuns()).tasks[0].kind == "train"
    before = {task.run.configuration for task in tasks[: kinds.index("time")] if task.run is not None}
    assert before == {BASELINE, OURS}


def test_the_baseline_and_fusionformer_come_first_at_every_size(tmp_path: Path) -> None:
    study = small_study(tmp_path, sizes=(Size("toy"), Size("deep", ("model.encoder.layers=13",), seeds_of_others=1)))
    runs = trainings(plan(study, KnownRuns()).tasks)
    first = runs[: 2 * 4 * 2]
    assert {run.configuration for run in first} == {BASELINE, OURS} and {run.size for run in first} == {"toy", "deep"}
    assert runs[0].configuration == BASELINE and runs[1].configuration == OURS and runs[0].rate == 0.001
    other = CONFIGURATIONS[1]
    assert study.seeds_of(study.sizes[1], other) == (0,) and study.seeds_of(study.sizes[1], OURS) == (0, 1, 2)


def test_a_model_that_diverged_is_not_evaluated(tmp_path: Path) -> None:
    study = small_study(tmp_path, equal_time=False)
    found = all_known(study, None)
    chosen = choose(study, "toy", OURS, found).choice
    assert chosen is not None
    runs = compared_runs(study, "toy", OURS, chosen, 40)
    found.outcomes |= {runs[0]: error_at(0.002, 0.002), runs[1]: Outcome("diverged"), runs[2]: error_at(0.002, 0.0)}
    tasks = [task for task in plan(study, found).tasks if task.run is not None and task.run.configuration == OURS]
    assert {(task.kind, task.run.seed) for task in tasks} == {("evaluate", 0), ("evaluate", 2)}


def test_the_number_of_trainings_is_known_from_the_start(tmp_path: Path) -> None:
    """If no edge of the grid is best and all times differ, the first estimate is the true number."""
    study = small_study(tmp_path)
    seconds = {item.folder: 0.4 + 0.1 * (item == BASELINE) for item in CONFIGURATIONS}
    expected = 6 * 4 + 6 * 2 + 5 * 3
    for found in (KnownRuns(), all_known(study, None), all_known(study, seconds)):
        assert plan(study, found).trainings == expected


def test_mistakes_in_a_study_are_named(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("sizes: [{name: a}, {name: a}]\nrates: [0.001, 0.002, 0.002]\n")
    with pytest.raises(ConfigError, match="two have the same name") as raised:
        read_study(path)
    assert "2 are too few" in str(raised.value)


def test_the_digits_study_describes_the_papers_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Norms are where the paper has them: at the places of LayerNorm, nowhere, or after each layer."""
    monkeypatch.chdir(RECIPE)
    study = read_study(Path("conf/comparison.yaml"))
    assert [size.name for size in study.sizes] == ["recipe", "deep"]
    (tmp_path / "lang").mkdir()
    kinds = {}
    for item in CONFIGURATIONS:
        config = recipe_of(study, "recipe", item, tmp_path).model
        encoder = AsrModel(config, 13).encoder
        layer_norms = sum(type(module).__name__ == "LayerNorm" for module in encoder.modules())
        appended = sum(name.endswith((".norm",)) and ".op." in name for name, _ in encoder.named_modules())
        kinds[item.folder] = (layer_norms, len(norms(encoder)), appended)
        assert config.encoder.layers == 4 and config.decoder.layers == 0 and config.loss.ctc_weight == 1
    places = 6 * 4  # before four branches, in the convolution, and after the layer
    assert kinds["layer_norm"][:2] == (places, 0) and kinds["batch_norm_in_place"][:2] == (0, places)
    assert kinds["no_norms"][:2] == (0, 0)
    # The subsampling; in each layer feed-forward, attention (q, k, v in one), convolution, feed-forward.
    each_layer = 3 + 4 * (2 + 2 + 3 + 2)
    for name in ("batch_norm_appended", "batch_norm_relu", "fusionformer"):
        assert kinds[name][:2] == (0, each_layer)
    first, last = (set(encoder_overrides(study, "recipe", item)) for item in (CONFIGURATIONS[4], OURS))
    assert first ^ last == {"model.encoder.positions=rel_pos", "model.encoder.positions=bias"}


def test_shorter_runs_choose_and_full_ones_are_compared(tmp_path: Path) -> None:
    """Runs that choose the settings are never reused as compared runs, not even with the same seed."""
    study = small_study(tmp_path, choosing_updates=20, equal_time=False)
    assert plan(study, KnownRuns()).trainings == len(CONFIGURATIONS) * (len(study.rates) + len(study.seeds))
    found = known(study, 0.002, list(study.rates))
    assert {run.updates for run in found.outcomes} == {20}
    runs = trainings(plan(study, found).tasks)
    longer = [run for run in runs if run.configuration == BASELINE]
    assert [(run.rate, run.seed, run.updates) for run in longer] == [(0.002, seed, 40) for seed in study.seeds]
    assert {run.updates for run in runs if run.configuration == OURS} == {20}
    assert "must be at least 1" in small_study(tmp_path, choosing_updates=0).problems()[0]


@pytest.mark.parametrize("recipe", sorted(path.parent for path in RECIPE.parent.parent.glob("*/s0/run_comparison.sh")))
def test_the_plan_of_each_recipe_is_printed(recipe: Path, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", recipe / "run_comparison.sh", "--dry_run", "true", "--dir", tmp_path / "exp"]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "LayerNorm Conformer" in lines[0] and lines[-1].startswith("0 of about ") and not (tmp_path / "exp").exists()
