"""Run a function in several processes that are ranks of one group, over gloo."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from wenet_fusion.ranks import Ranks


def run_ranks(function: Callable[..., Any], world: int, folder: Path, *arguments: Any) -> list[Any]:
    """Call `function(ranks, *arguments)` in `world` processes and return what each rank returned.

    Args:
        function: function of a module, so that the processes can import it.
        world: number of ranks.
        folder: an empty folder for rendezvous, arguments and results.
        arguments: arguments of the function; pickled.
    """
    # The fork server loads these modules once, so that each process starts quickly.
    multiprocessing.set_forkserver_preload(["torch.distributed", "wenet_fusion.recipe"])
    torch.save((function, arguments), folder / "call.pt")
    context = torch.multiprocessing.start_processes(
        _run, (world, folder), nprocs=world, join=False, start_method="forkserver"
    )
    assert context is not None
    while not context.join():
        pass
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _run(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    function, arguments = torch.load(folder / "call.pt", weights_only=False)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        torch.save(function(Ranks(rank, world), *arguments), folder / f"{rank}.pt")
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        dist.destroy_process_group()
