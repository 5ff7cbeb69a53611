"""A tar that was cut off between two members is damaged, however it is read."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.data.shards import tar, utterance_members

from wenet_fusion.data.lists.manifest import read_manifest
from wenet_fusion.data.sequential.tar_members import read_members


def read_indexed(shard: Path) -> int:
    data_list = shard.with_suffix(".list")
    data_list.write_text(f"{shard}\n")
    return 2 * len(read_manifest(data_list))


def read_in_sequence(shard: Path) -> int:
    return len(list(read_members(str(shard), retries=0)))


@pytest.mark.parametrize("read", [read_indexed, read_in_sequence])
def test_a_tar_without_its_end_is_damaged(read: Callable[[Path], int], tmp_path: Path) -> None:
    shard = tmp_path / "cut.tar"
    content = tar([member for seed in range(3) for member in utterance_members(f"u{seed}", seed)])
    shard.write_bytes(content)
    assert read(shard) == 6
    with tarfile.open(shard) as file:
        ends = [member.offset for member in file][1:]
    for end in ends:
        shard.write_bytes(content[:end])
        with pytest.raises(ValueError, match="cut.tar: damaged.*ends without an end mark: it was cut off"):
            read(shard)
