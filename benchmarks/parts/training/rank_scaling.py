"""Time the steps of one rank, of two independent trainings and of two connected ranks, by turns.

All of them run in the same two processes of one thread each; the two ranks communicate by gloo.
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


def scaling(spec: SetupSpec, precision: Precision, rounds: int) -> dict[str, Timing]:
    """Return the times of a step with one rank, two independent trainings, and two ranks."""
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
        alone = TrainingSetup(spec, (precision,)).call(precision, "default")
        together = TrainingSetup(spec, (precision,), Ranks(number, WORLD)).call(precision, "default")
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
    """Wrap a step so that it ends in both processes at the same time."""

    def whole() -> None:
        step()
        dist.barrier()

    return whole
