"""A comparison whose runs end at once: known outcomes, and a fake command that writes logs and results."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from parts.comparison.execution import CommandResult
from parts.comparison.outcomes import Outcome
from parts.comparison.study import RunSpec, Size, Study, Task

TRAIN_CONFIG = "tokenizer: {units: units.txt}\ntraining: {max_steps: 40, validate_interval_steps: 20}\n"


def small_study(folder: Path, **changes: object) -> Study:
    """Return a study of one size with 40 updates per run; its training configuration is written to `folder`."""
    config = folder / "train.yaml"
    config.write_text(TRAIN_CONFIG)
    settings = {"sizes": (Size("toy"),), "warmups": (10,), "train_config": str(config)}
    return Study(**{**settings, **changes})


@dataclass
class KnownRuns:
    """The runs that have ended so far; implements the protocol `RunOutcomes`."""

    outcomes: dict[RunSpec, Outcome] = field(default_factory=dict)
    evaluated: set[RunSpec] = field(default_factory=set)
    seconds: dict[str, float] | None = None

    def outcome(self, run: RunSpec) -> Outcome | None:
        return self.outcomes.get(run)

    def is_evaluated(self, run: RunSpec) -> bool:
        return run in self.evaluated

    def update_seconds(self, size: str) -> dict[str, float] | None:
        return self.seconds


def error_at(rate: float, best: float) -> Outcome:
    """Return the outcome of a run whose error grows with the distance of its rate from the best one."""
    return Outcome("finished", "", 40, abs(rate - best), 1.0)


class FakeCommand:
    """Replaces `wenet-fusion`: a training writes its log and its checkpoint, an evaluation its results.

    `wer` returns the dev error of the run in a folder; None: its loss is not finite. The first `kills` trainings end
    half-way.
    """

    def __init__(self, wer=lambda folder: 0.05, kills: int = 0) -> None:
        self.wer, self.kills, self.calls = wer, kills, []

    def __call__(self, arguments: list[str], output: Path) -> CommandResult:
        self.calls.append(arguments)
        options = dict(zip(arguments[1::2], arguments[2::2]))
        if arguments[0] == "evaluate":
            results = Path(options["--result_dir"])
            results.mkdir()
            write_results(results, errors=[1, 0, 0, 0])
            return CommandResult(0, 1.0)
        folder, updates = Path(options["--model_dir"]), setting(arguments, "training.max_steps")
        wer = self.wer(folder)
        killed = self.kills > 0
        self.kills -= killed
        write_log(folder, int(updates) // 2 if killed else int(updates), wer)
        (folder / "training_state.pt").write_bytes(b"state")
        if killed:
            output.write_text("Killed\n")
            return CommandResult(-9, 10.0)
        if wer is None:
            output.write_text("error: training diverged: 10 updates in a row were not finite\n")
            return CommandResult(1, 10.0)
        (folder / f"step_{int(updates):06d}.pt").write_bytes(b"model")
        output.write_text("trained\n")
        return CommandResult(0, 10.0)


def setting(arguments: list[str], name: str) -> str:
    """Return the value of an override on a command line."""
    (value,) = [item.partition("=")[2] for item in arguments if item.startswith(f"{name}=")]
    return value


def write_log(folder: Path, updates: int, wer: float | None) -> None:
    """Write the log of a training with `updates` updates; its last line is a validation, unless `wer` is None."""
    lines = [
        {"kind": "step", "step": step, "epoch": 0, "loss": 9.0 / step, "grad_norm": 2.0, "seconds": 0.5}
        for step in range(1, updates + 1)
    ]
    if wer is not None:
        lines.append({"kind": "epoch", "step": updates, "epoch": 0, "dev_wer": wer, "dev_loss": 1.0, "train_loss": 1.0})
    (folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_results(folder: Path, errors: list[int]) -> None:
    """Write the results of an evaluation of utterances of five words each."""
    lines = [
        {"key": f"u{number}", "mode": mode, "chunking": chunking, "errors": count, "words": 5}
        for mode in ("ctc_greedy_search", "attention_rescoring")
        for chunking in ("full", "16/4")
        for number, count in enumerate(errors)
    ]
    (folder / "utterances.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "results.json").write_text("{}")


def write_times(path: Path, seconds: dict[str, float]) -> None:
    """Write times of updates; a streaming step takes a tenth of an update, and in-place BatchNorm is not exported."""
    updates = {name: {"median": 1000 * value} for name, value in seconds.items()}
    steps = {name: {"median": 100 * value} for name, value in seconds.items() if name != "batch_norm_in_place"}
    record = {
        "parameters": dict.fromkeys(seconds, 2_000_000),
        "encoder_parameters": dict.fromkeys(seconds, 1_000_000),
        "updates": updates,
        "steps": {"8/8": steps, "16/4": steps},
        "not_exported": {"batch_norm_in_place": "fuse_norms cannot fold it"},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def trainings(tasks: tuple[Task, ...]) -> list[RunSpec]:
    """Return the runs that are to be trained."""
    return [task.run for task in tasks if task.kind == "train" and task.run is not None]
