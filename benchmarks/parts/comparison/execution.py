"""Run the tasks of a comparison, each training and evaluation in its own process; resume interrupted ones."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from parts.comparison.comparison_times import measure_times
from parts.comparison.grid import plan
from parts.comparison.outcomes import DIVERGED, RunFolders, course_of, judge, read_run_log
from parts.comparison.seed_intervals import evaluation_record
from parts.comparison.study import RunSpec, Study, Task, clip_norm_of, run_overrides, warmup_of
from wenet_fusion_runtime.files import hold_lock, write_text

from wenet_fusion.provenance import commit, processor

OUTPUT, PROCESSOR_SECONDS = "train.out", "processor_seconds"
OBSOLETE_FILES = ("training_state*.pt", "largest_batch*", "step_*.pt.part")  # deleted when a run has finished
ROOT = Path(__file__).resolve().parents[3]


class CommandResult(NamedTuple):
    """The exit status and the processor time of a command."""

    status: int
    processor_seconds: float


Command = Callable[[list[str], Path], CommandResult]  # (arguments of wenet-fusion, file for its output) -> result


class Processes:
    """Runs `wenet-fusion` in child processes, and can stop them all.

    >>> Processes()(["--help"], Path(os.devnull)).status
    0
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()

    def __call__(self, arguments: list[str], output: Path) -> CommandResult:
        """Run a command to its end."""
        with open(output, "ab") as file:
            command = [sys.executable, "-m", "wenet_fusion.cli", *arguments]
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            with self._lock:
                self._running.add(process)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            with self._lock:
                self._running.discard(process)
        return CommandResult(process.returncode, usage.ru_utime + usage.ru_stime)

    def stop(self) -> None:
        """Ask all commands to save their state and end."""
        with self._lock:
            for process in self._running:
                process.terminate()


class Worker:
    """Runs tasks; several threads may use it at the same time.

    Args:
        study: settings of the comparison.
        data_dir: a recipe's data folder: {train,dev,test}/data.list, train/global_cmvn, lang/units.txt.
        folders: folders of the runs.
        command: runs `wenet-fusion`.
        device: device of the trainings.
    """

    def __init__(
        self, study: Study, data_dir: Path, folders: RunFolders, command: Command, device: str = "cpu"
    ) -> None:
        self._study, self._data_dir, self._folders, self._command = study, data_dir, folders, command
        self._device = device
        self._commit, self._machine = commit(ROOT), processor()

    def do(self, task: Task) -> str:
        """Run a task and return a line about its result.

        Raises:
            ValueError, OSError: the task failed, but not by divergence; the message names the file of its output.
        """
        if task.run is None:
            measure_times(self._study, task.size, self._data_dir, self._folders.times_path(task.size))
            return "measured"
        return self._train(task.run) if task.kind == "train" else self._evaluate(task.run)

    def _list(self, name: str) -> str:
        return str(self._data_dir / name / "data.list")

    def _train(self, run: RunSpec) -> str:
        folder = self._folders.path(run)
        folder.mkdir(parents=True, exist_ok=True)
        config = ["--config", self._study.train_config, "--train_data", self._list("train"), "--dev_data"]
        command = ["train", *config, self._list("dev"), "--model_dir", str(folder), "--device", self._device]
        ended = self._command([*command, *run_overrides(self._study, run, self._data_dir)], folder / OUTPUT)
        spent = folder / PROCESSOR_SECONDS  # sum over all processes that trained this run
        seconds = ended.processor_seconds + (float(spent.read_text()) if spent.exists() else 0.0)
        write_text(spent, f"{seconds:.1f}\n")  # atomically: other threads read it, and this process may be killed
        last_line = last_line_of(folder / OUTPUT)
        if ended.status and DIVERGED not in last_line:
            raise OSError(f"{folder / OUTPUT}: the training ended with status {ended.status}: {last_line}")
        try:
            log = read_run_log(folder)
            outcome = judge(log, run.updates, self._study.most_errors, last_line)
        except ValueError as error:
            raise ValueError(f"{folder / OUTPUT}: {error}") from error
        course = course_of(log, warmup_of(self._study, run), clip_norm_of(self._study))
        outcome = replace(outcome, processor_seconds=seconds, commit=self._commit, machine=self._machine, course=course)
        self._folders.write_outcome(run, outcome)
        for pattern in OBSOLETE_FILES:
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
        if outcome.status == "diverged":
            return f"diverged ({outcome.reason})"
        return f"dev WER {100 * (outcome.dev_wer or 0.0):.2f} %, {outcome.training_seconds / 60:.1f} min"

    def _evaluate(self, run: RunSpec) -> str:
        folder = self._folders.path(run)
        if not any(folder.glob("step_*.pt")):
            self._train(run)  # the run has a record but no checkpoint
        checkpoint = max(folder.glob("step_*.pt"))
        command = ["evaluate", "--checkpoint", str(checkpoint), "--data", self._list("test")]
        command += ["--result_dir", str(folder / "results"), "--modes", *self._study.modes]
        ended = self._command([*command, "--chunkings", *self._study.chunkings], folder / "evaluate.out")
        if ended.status:
            output = folder / "evaluate.out"
            raise OSError(f"{output}: the evaluation ended with status {ended.status}: {last_line_of(output)}")
        self._folders.write_evaluation(run, evaluation_record(folder / "results"))
        return "evaluated"


def last_line_of(path: Path) -> str:
    """Return the last non-empty line of a command's output, or the last state of a progress bar."""
    lines = path.read_bytes()[-20000:].decode("utf-8", "replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


class Progress(NamedTuple):
    """The progress of a comparison, for a line in the log."""

    finished: int
    trainings: int
    seconds_each: float  # mean processor time of the trainings that finished here; 0: unknown

    def line(self, jobs: int) -> str:
        """Return a line with the numbers and the estimated remaining time."""
        left = (self.trainings - self.finished) * self.seconds_each / jobs
        rest = f"; about {left / 3600:.1f} h left with {jobs} at once" if self.seconds_each else ""
        return f"{self.finished} of about {self.trainings} trainings finished{rest}"


def progress(study: Study, folders: RunFolders) -> Progress:
    """Return the progress of a comparison."""
    now = plan(study, folders)
    files = [path for path in folders.folder.glob(f"*/*/*/{PROCESSOR_SECONDS}") if folders.is_finished(path.parent)]
    seconds = [float(path.read_text()) for path in files]
    return Progress(now.finished, now.trainings, sum(seconds) / len(seconds) if seconds else 0.0)


def run_tasks(
    study: Study, folders: RunFolders, do: Callable[[Task], str], jobs: int, log_line: Callable[[str], None]
) -> dict[Task, str]:
    """Run all tasks, `jobs` at the same time; return the failed ones with their reasons.

    After each task, the plan is made again, because the grid grows if its best rate is at an edge. A failed task is not
    repeated; the next call of this function tries it again.
    """
    failed: dict[Task, str] = {}
    running: dict[Future[str], Task] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            busy = {*running.values(), *failed}
            for task in [task for task in plan(study, folders).tasks if task not in busy][: jobs - len(running)]:
                log_line(f"begin {task.label}")
                running[pool.submit(do, task)] = task
            if not running:
                return failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    log_line(f"{task.label}: {future.result()}")
                except (ValueError, OSError) as error:
                    failed[task] = str(error)
                    log_line(f"{task.label}: FAILED: {error}")
                log_line(progress(study, folders).line(jobs))


def run_comparison(study: Study, data_dir: Path, folders: RunFolders, jobs: int, device: str) -> int:
    """Run the remaining tasks of a comparison; return 1 if one failed. After SIGTERM, another call resumes them."""
    folder = folders.folder
    folder.mkdir(parents=True, exist_ok=True)
    lock = hold_lock(
        folder / "comparison.lock", f"{folder} is being worked on by process {{holder}}: wait for it, or stop it"
    )
    processes = Processes()
    worker = Worker(study, data_dir, folders, processes, device)

    def stop(number: int, frame: FrameType | None) -> None:
        processes.stop()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        failed = run_tasks(
            study, folders, worker.do, jobs, lambda line: print(f"{time.strftime('%F %T')} {line}", flush=True)
        )
    except KeyboardInterrupt:
        processes.stop()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        lock.close()
    for task, reason in failed.items():
        print(f"error: {task.label}: {reason}", file=sys.stderr)
    return 1 if failed else 0
