"""Time the steps of one rank, of two independent trainings and of two connected ranks, by turns.

There are two processes of one thread each. For one rank, the first process computes a step and the second waits. For
two independent trainings, each process computes a step of a model of its own. For two ranks, the processes train one
model and communicate by gloo. Both processes start each step at the same time; a step ends when both have finished.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from parts.timing import Timing, by_turns
from parts.training.training_setup import SetupSpec, TrainingSetup

from wenet_fusion.ranks import Ranks
from wenet_fusion.training.training_config import Precision

ONE, INDEPENDENT, TWO = "one rank", "two independent trainings", "two ranks"
WORLD = 2


def measure_rank_scaling(spec: SetupSpec, precision: Precision, rounds: int) -> dict[str, Timing]:
    """Start the two processes, and return the times of a step with the keys `ONE`, `INDEPENDENT` and `TWO`."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (spec, precision, rounds, folder)
        context = torch.multiprocessing.start_processes(
            _measure, arguments, nprocs=WORLD, join=False, start_method="forkserver"
        )
        while not context.join():
            pass
        found = json.loads((Path(folder) / "times.json").read_text(encoding="utf-8"))
    return {name: Timing(**values) for name, values in found.items()}


def _measure(number: int, spec: SetupSpec, precision: Precision, rounds: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=WORLD)
    try:
        alone = TrainingSetup(spec, (precision,)).step_function(precision, "default")
        together = TrainingSetup(spec, (precision,), Ranks(number, WORLD)).step_function(precision, "default")
        steps: dict[str, Callable[[], None]] = {ONE: _nothing if number else alone, INDEPENDENT: alone, TWO: together}
        calls = {name: _with_barrier(step) for name, step in steps.items()}
        dist.barrier()
        times = by_turns(calls, rounds, 1, _nothing, waits=True)
        if number == 0:
            values = {name: timing._asdict() for name, timing in times.items()}
            (Path(folder) / "times.json").write_text(json.dumps(values), encoding="utf-8")
    finally:
        dist.destroy_process_group()


def _nothing() -> None:
    pass


def _with_barrier(step: Callable[[], None]) -> Callable[[], None]:
    """Return a function that computes a step and then waits for the other process."""

    def whole() -> None:
        step()
        dist.barrier()

    return whole
