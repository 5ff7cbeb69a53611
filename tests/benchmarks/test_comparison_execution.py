"""The comparison of the paper's models: trainings are resumed, never repeated, and a divergence counts as a result."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
import comparison
from parts.comparison.comparison_tables import headline_table
from parts.comparison.execution import CommandResult, Worker, progress, run_comparison, run_tasks
from parts.comparison.findings import collect
from parts.comparison.grid import grid_runs, plan
from parts.comparison.outcomes import (
    OUTCOME,
    Gradients,
    LogLines,
    Outcome,
    Point,
    RunFolders,
    course_of,
    judge,
    read_run_log,
)
from parts.comparison.study import BASELINE, CONFIGURATIONS, OURS, Size, Study, Task
from support.recipes.comparison_runs import FakeCommand, setting, small_study, write_log, write_times
from support.recipes.scripts import run

from wenet_fusion.config import to_yaml


def rate_of(folder: Path) -> float:
    return float(folder.name.split("_")[0].removeprefix("rate"))


def worker(study, tmp_path: Path, command: FakeCommand) -> tuple[Worker, RunFolders]:
    folders = RunFolders(tmp_path / "exp")
    write_times(folders.times_path("toy"), {item.folder: 0.5 for item in CONFIGURATIONS})
    return Worker(study, tmp_path / "data", folders, command), folders


def work(study, tmp_path: Path, command: FakeCommand, jobs: int = 1) -> dict[Task, str]:
    doing, folders = worker(study, tmp_path, command)
    return run_tasks(study, folders, doing.do, jobs, lambda line: None)


def test_killed_and_finished_trainings_are_resumed_and_skipped(tmp_path: Path) -> None:
    """The second call repeats only the killed trainings, with the same command: `train` itself resumes them."""
    study = small_study(tmp_path)
    first = FakeCommand(lambda folder: abs(rate_of(folder) - 0.002), kills=3)
    failed = work(study, tmp_path, first)
    assert len(failed) == 3 and all("status -9: Killed" in reason for reason in failed.values())
    killed = [arguments for arguments in first.calls if arguments[0] == "train"][:3]
    second = FakeCommand(first.wer)
    assert work(study, tmp_path, second) == {}
    again = [arguments for arguments in second.calls if arguments[0] == "train"]
    assert all(arguments in again for arguments in killed)
    done = [arguments for arguments in first.calls if arguments[0] == "train" and arguments not in killed]
    assert not any(arguments in again for arguments in done)
    third = FakeCommand(first.wer)
    assert work(study, tmp_path, third) == {} and third.calls == []
    resumed = RunFolders(tmp_path / "exp").outcome(grid_runs(study, "toy", BASELINE, study.rates)[0])
    assert resumed is not None and resumed.processor_seconds == 20.0  # of both processes


def test_several_at_once_do_the_same_trainings(tmp_path: Path) -> None:
    study, calls = small_study(tmp_path), []
    for jobs in (1, 3):
        (tmp_path / str(jobs)).mkdir()
        command = FakeCommand(lambda folder: abs(rate_of(folder) - 0.004))
        assert work(study, tmp_path / str(jobs), command, jobs) == {}
        names = [" ".join(call).replace(f"{tmp_path / str(jobs)}", "") for call in command.calls]
        assert len(set(names)) == len(names)
        calls.append(sorted(names))
    assert calls[0] == calls[1]
    rates = {setting(call.split(), "training.optim.learning_rate") for call in calls[0] if call.startswith("train")}
    assert "0.008" in rates  # the grid grew by one step, because its edge was best


def test_a_divergence_is_a_result(tmp_path: Path) -> None:
    study = small_study(tmp_path, most_extensions=1)
    command = FakeCommand(lambda folder: None if folder.parent.name == "no_norms" else abs(rate_of(folder) - 0.002))
    assert work(study, tmp_path, command) == {}
    folders = RunFolders(tmp_path / "exp")
    lost = [folders.outcome(run) for run in grid_runs(study, "toy", CONFIGURATIONS[1], [*study.rates, 0.00025])]
    assert all(outcome is not None and outcome.status == "diverged" for outcome in lost)
    assert "not finite from update 31" in lost[0].reason
    assert not any("no_norms" in " ".join(call) for call in command.calls if call[0] == "evaluate")
    assert sum(call[0] == "evaluate" for call in command.calls) == 5 * 3
    assert "36 of about 36 trainings" not in progress(study, folders).line(1)
    assert plan(study, folders).tasks == ()


@pytest.mark.parametrize(
    ("wer", "status", "reason"),
    [(0.05, "finished", ""), (0.9, "finished", ""), (0.95, "diverged", "dev WER 95.0 %"), (1.2, "diverged", "120.0")],
)
def test_a_model_that_learned_nothing_has_diverged(tmp_path: Path, wer: float, status: str, reason: str) -> None:
    write_log(tmp_path, 40, wer)
    outcome = judge(read_run_log(tmp_path), 40, 0.9, "trained")
    assert (outcome.status, outcome.updates, outcome.training_seconds) == (
        status,
        40,
        20.0,
    ) and reason in outcome.reason


def test_a_training_that_ended_early_is_no_result(tmp_path: Path) -> None:
    write_log(tmp_path, 30, 0.05)
    with pytest.raises(ValueError, match="ended after 30 of 40 updates: stopped by SIGTERM"):
        judge(read_run_log(tmp_path), 40, 0.9, "stopped by SIGTERM")
    study = small_study(tmp_path)
    doing, folders = worker(study, tmp_path, FakeCommand(kills=1))
    (run, *_) = grid_runs(study, "toy", OURS, study.rates)
    with pytest.raises(OSError, match=r"train\.out: the training ended with status -9"):
        doing.do(Task("train", "toy", run))
    assert folders.outcome(run) is None and (folders.path(run) / "training_state.pt").exists()
    assert doing.do(Task("train", "toy", run)).startswith("dev WER 5.00 %")
    assert sorted(path.name for path in folders.path(run).glob("*.pt")) == ["step_000040.pt"]


def test_a_damaged_outcome_is_named(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    folders = RunFolders(tmp_path)
    (run, *_) = grid_runs(study, "toy", OURS, study.rates)
    folders.path(run).mkdir(parents=True)
    (folders.path(run) / OUTCOME).write_text('{"status": "fin')
    with pytest.raises(ValueError, match=r"outcome\.json: not the outcome of a run .*; delete it"):
        folders.outcome(run)


def test_tables_are_made_from_records_without_training(tmp_path: Path) -> None:
    """Checkpoints stay on the machine that trained. A chosen run without a checkpoint here is trained again."""
    study, command = small_study(tmp_path), FakeCommand(lambda folder: abs(rate_of(folder) - 0.002))
    folders = RunFolders(tmp_path / "exp", tmp_path / "records")
    write_times(folders.times_path("toy"), {item.folder: 0.5 for item in CONFIGURATIONS})
    first = Worker(study, tmp_path / "data", folders, command)
    tasks = plan(study, folders).tasks
    while any(task.kind == "train" for task in tasks):
        for task in tasks:
            if task.kind == "train":
                first.do(task)
        tasks = plan(study, folders).tasks
    elsewhere, other = RunFolders(tmp_path / "other", tmp_path / "records"), FakeCommand(command.wer)
    assert plan(study, elsewhere).tasks == tasks and {task.kind for task in tasks} == {"evaluate"}
    assert (
        run_tasks(study, elsewhere, Worker(study, tmp_path / "data", elsewhere, other).do, 1, lambda line: None) == {}
    )
    assert [call[0] for call in other.calls] == ["train", "evaluate"] * len(tasks)
    assert plan(study, RunFolders(tmp_path / "nowhere", tmp_path / "records")).tasks == ()
    names = {path.name for path in (tmp_path / "records").rglob("*") if path.is_file()}
    assert names == {"outcome.json", "errors.json", "times.json"}
    (found,) = collect(study, RunFolders(tmp_path / "records"))
    (same,) = collect(study, folders)
    assert headline_table(found, study) == headline_table(same, study) and "0.002, 10" in headline_table(found, study)


def test_the_course_of_a_training_leaves_out_values_that_are_not_finite() -> None:
    steps = [
        {"step": n, "loss": None if n == 7 else float(n), "grad_norm": 6.0 if n > 90 else 1.0} for n in range(1, 121)
    ]
    epochs = [{"step": 60, "dev_wer": 0.5}, {"step": 120, "dev_wer": None}]
    lines = [{"kind": "step", **step} for step in steps] + [{"kind": "epoch", **epoch} for epoch in epochs]
    course = course_of(LogLines([json.dumps(line) for line in lines]), 20, 5.0)
    assert len(course.losses) == 60 and course.losses[0] == Point(2, 1.5) and course.losses[3] == Point(8, 8.0)
    assert course.dev_wers == (Point(60, 0.5),)
    assert course.gradients == Gradients(1.0, 6.0, 0.3)


def test_a_better_outcome_comes_first() -> None:
    better = [Outcome("finished", "", 1, 0.1, 2.0), Outcome("finished", "", 1, 0.1, 3.0)]
    worse = [Outcome("finished", "", 1, 0.2, 1.0), Outcome("diverged", "", 1, 0.05, 1.0), Outcome("diverged")]
    ranks = [outcome.rank("wer") for outcome in (*better, *worse)]
    assert ranks == sorted(ranks)
    assert sorted((*better, *worse), key=lambda outcome: outcome.rank("loss")) == [worse[0], *better, *worse[1:]]


def test_the_plan_is_printed_without_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = small_study(tmp_path)
    (tmp_path / "study.yaml").write_text(to_yaml(study))
    command = ["run", "--study", tmp_path / "study.yaml", "--folder", tmp_path / "exp", "--dry_run"]
    assert comparison.main([*map(str, command)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy, LayerNorm Conformer, rate 0.001, warm-up 10, seed 0, 40 updates"
    assert lines[-1] == "0 of about 51 trainings finished" and not (tmp_path / "exp").exists()
    command[-1] = "--jobs=0"
    with pytest.raises(ValueError, match="--jobs 0: must be 1 or more"):
        comparison.main([*map(str, command)])
    summary = ["summarise", *command[1:5], "--name", "toy", "--output", tmp_path, "--jobs=2"]
    with pytest.raises(SystemExit):  # which trains nothing
        comparison.main([*map(str, summary)])


HOLDER = """
import pathlib, sys
from wenet_fusion_runtime.files import hold_lock
held = hold_lock(pathlib.Path(sys.argv[1]), "")
print("held", flush=True)
sys.stdin.read()
"""


def test_two_calls_do_not_share_a_folder(tmp_path: Path) -> None:
    """A lock belongs to a process, so another process holds it in this test."""
    (tmp_path / "exp").mkdir()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "exp" / "comparison.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OSError, match=f"is being worked on by process {other.pid}"):
            run_comparison(small_study(tmp_path), tmp_path, RunFolders(tmp_path / "exp"), 1, "cpu")
        other.stdin.close()


@pytest.mark.slow
def test_real_trainings_from_the_lists_to_the_tables(tone_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every configuration trains, is evaluated, timed and tabulated; nothing is left to do."""
    # Here `train` runs in threads, in which Python cannot set signal handlers; real runs train in processes.
    monkeypatch.setattr("signal.signal", lambda *_: None)
    data = tmp_path / "data"
    for name in ("train", "dev", "test"):
        source = tone_run.train_list.parent.parent / ("train" if name == "train" else "dev")
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).symlink_to(source)
    (data / "lang").mkdir()
    (data / "lang" / "units.txt").write_text(Path(tone_run.recipe.tokenizer.units).read_text())
    training = replace(tone_run.recipe.training, max_steps=6, validate_interval_steps=3)
    (tmp_path / "train.yaml").write_text(to_yaml(replace(tone_run.recipe, training=training)))
    study = Study(
        sizes=(Size("toy"),), warmups=(2,), most_extensions=0, seeds=(0,), train_config=str(tmp_path / "train.yaml"),
        modes=("ctc_greedy_search",), chunkings=("8/2",), typical_seconds=1.0, most_errors=10.0,
    )  # fmt: skip
    folders = RunFolders(tmp_path / "exp")

    def command(arguments: list[str], output: Path) -> CommandResult:
        output.write_text("in this process\n")
        return CommandResult(run(*arguments), 1.0)

    assert run_tasks(study, folders, Worker(study, data, folders, command).do, 1, lambda line: None) == {}
    assert plan(study, folders).tasks == () and folders.times("toy")["not_exported"].keys() == {"batch_norm_in_place"}
    compared = [found.equal_updates for found in collect(study, folders)[0].configurations]
    assert [len(item.runs) for item in compared] == [1] * len(CONFIGURATIONS)
