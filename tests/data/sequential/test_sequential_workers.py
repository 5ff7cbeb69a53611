"""If a process that loads sequential shards is killed or lacks shared memory, training reacts as with lists."""

import os
import signal
from pathlib import Path

import pytest
import torch
from support.data.sequential_epochs import LOADING, epoch, recipe, same  # noqa: F401  # recipe is a fixture
from support.data.shards import write_shards
from torch.utils.data import get_worker_info

from wenet_fusion.data.sequential.sequential_dataset import SequentialDataset
from wenet_fusion.recipe import RecipeConfig

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def shard_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), (4, 3))


def test_a_killed_process_ends_the_epoch_with_its_cause(
    recipe: RecipeConfig, shard_list: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = SequentialDataset.load

    def killed(self: SequentialDataset, *arguments: object) -> object:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SequentialDataset, "load", killed)
    with pytest.raises(OSError, match=r"a process that loads batches was killed \(Killed\)"):
        epoch(recipe, shard_list, loading=LOADING._replace(num_workers=1))


def test_batches_travel_without_shared_memory(
    recipe: RecipeConfig, shard_list: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = epoch(recipe, shard_list)

    def no_room(*_: object) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", no_room)
    assert same(alone, epoch(recipe, shard_list, loading=LOADING._replace(num_workers=1)))
