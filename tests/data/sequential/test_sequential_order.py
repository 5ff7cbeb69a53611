"""Shards read in sequence: order, ranks, positions, places."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from support.data.sequential_epochs import (  # noqa: F401  # recipe and impatient are fixtures
    ENDLESS,
    LOADING,
    changed,
    epoch,
    impatient,
    keys,
    recipe,
    same,
    source,
)  # fmt: skip
from support.data.shards import in_ranks, served, tar, wav, write_shards
from support.model.tones import speak

from wenet_fusion.data.sequential.rank_steps import Position
from wenet_fusion.data.sequential.shard_list import read_shards
from wenet_fusion.ranks import Placement, Ranks
from wenet_fusion.recipe import RecipeConfig, build_source, build_trainer
from wenet_fusion.text.tokenizer import build_tokenizer

pytestmark = pytest.mark.usefixtures("impatient")

SIZES = (7, 4, 9, 1, 6)


@pytest.fixture(scope="module")
def shard_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), SIZES)


# ---- the order


def test_an_epoch_has_every_utterance_once_in_an_order_of_its_own(recipe: RecipeConfig, shard_list: Path) -> None:
    dataset = source(recipe, shard_list)
    seen = [list(dataset.epoch(number, 0, ENDLESS, LOADING, Ranks()).batches) for number in (0, 1)]
    expected = sorted(f"s{number}-u{index:02d}" for number, size in enumerate(SIZES) for index in range(size))
    for batches in seen:
        assert sorted(key for batch in keys(batches) for key in batch) == expected
        assert [loaded.is_last for loaded in batches] == [False] * (len(batches) - 1) + [True]
        assert max(map(len, keys(batches))) == 3
    assert keys(seen[0]) != keys(seen[1])
    assert dataset.description() == "5 shards, read in sequence" and dataset.skipped == []


def test_workers_and_ranks_change_no_batch(recipe: RecipeConfig, shard_list: Path) -> None:
    alone = epoch(recipe, shard_list)
    assert same(alone, epoch(recipe, shard_list, loading=LOADING._replace(num_workers=2)))
    first, second = in_ranks(2, lambda ranks: epoch(recipe, shard_list, ranks))
    together = [keys for pair in zip(keys(first), keys(second)) for keys in pair]
    assert together[:6] == keys(alone)[:6], "while no lane has ended"
    samples = {key: batch for loaded in alone for key, batch in zip(loaded.batch.keys, loaded.batch.samples_BN)}
    smaller = epoch(recipe, shard_list, loading=LOADING._replace(max_batch_rows=2))
    for loaded in first + second + smaller:
        for b, key in enumerate(loaded.batch.keys):
            length = int(loaded.batch.sample_lengths_B[b])
            assert torch.equal(loaded.batch.samples_BN[b, :length], samples[key][:length]), "draws depend on the place"


@pytest.mark.parametrize("world, rows", [(1, 3), (2, 3), (2, 1), (3, 1), (3, 2)])
def test_ranks_share_an_epoch_and_resume_at_any_position(
    recipe: RecipeConfig, shard_list: Path, world: int, rows: int
) -> None:
    """With one row per batch, some of the last steps consist of rows that had to wait."""
    loading = LOADING._replace(max_batch_rows=rows)
    shares = in_ranks(world, lambda ranks: epoch(recipe, shard_list, ranks, loading=loading))
    assert len({tuple((loaded.position, loaded.is_last) for loaded in share) for share in shares}) == 1
    dealt = [key for share in shares for batch in keys(share) for key in batch]
    assert len(set(dealt)) == len(dealt) > sum(SIZES) - world
    assert all(0 < len(batch) <= rows for share in shares for batch in keys(share))
    for done in range(1, len(shares[0]) - 1):
        start = shares[0][done - 1].position
        rest = in_ranks(world, lambda ranks: epoch(recipe, shard_list, ranks, start, loading))
        assert all(same(share[done:], left) for share, left in zip(shares, rest)), done


def test_positions_are_valid_for_all_numbers_of_ranks_that_divide_the_lanes(
    recipe: RecipeConfig, shard_list: Path
) -> None:
    dataset = source(recipe, shard_list)
    assert dataset.keeps_positions(0, 1, 2) and dataset.keeps_positions(0, 2, 4)
    assert not dataset.keeps_positions(0, 2, 3), "other lanes"
    pair = in_ranks(2, lambda ranks: epoch(recipe, shard_list, ranks))
    assert keys(epoch(recipe, shard_list, start=pair[0][0].position))[:4] == keys(epoch(recipe, shard_list))[2:6]


def test_no_batch_is_trained_twice_by_more_ranks(recipe: RecipeConfig, shard_list: Path) -> None:
    """Two ranks cannot resume between the batches of one of their steps, or where rows wait for a step."""
    dataset, kept = source(recipe, shard_list), []
    alone = epoch(recipe, shard_list)
    for done, loaded in enumerate(alone[:-2], start=1):
        if dataset.keeps_positions(loaded.position, 1, 2):
            rest = in_ranks(2, lambda ranks, start=loaded.position: epoch(recipe, shard_list, ranks, start))
            dealt = [key for share in (alone[:done], *rest) for batch in keys(share) for key in batch]
            assert len(set(dealt)) == len(dealt) >= sum(SIZES) - 1, done
            kept.append(done)
    assert 2 in kept and 1 not in kept
    eight = source(changed(recipe, lanes=8), shard_list)
    assert [eight.keeps_positions(Position(batches).encode(), 2, 4) for batches in (4, 6, 8)] == [True, False, True]
    waiting = Position(8, 1).encode()
    assert eight.keeps_positions(waiting, 2, 2) and not eight.keeps_positions(waiting, 2, 4)


# ---- places


def test_urls_commands_and_compression_give_the_same_batches(
    recipe: RecipeConfig, shard_list: Path, tmp_path: Path
) -> None:
    expected = epoch(recipe, shard_list)
    flaws = {("shard_0.tar", 1): "busy", ("shard_0.tar", 2): "cut", ("shard_2.tar", 1): "cut"}
    with served(shard_list.parent, lambda name, count: flaws.get((name, count), "")) as url:
        (tmp_path / "urls.list").write_text(f"{url}/shard_{{0..4}}.tar\n")
        assert same(epoch(recipe, tmp_path / "urls.list"), expected)
    (tmp_path / "pipes.list").write_text(f"pipe:cat {shard_list.parent}/shard_{{0..4}}.tar\n")
    assert same(epoch(changed(recipe, allow_commands=True), tmp_path / "pipes.list"), expected)
    (tmp_path / "packed.list").write_text(f"pipe:gzip -c {shard_list.parent}/shard_{{0..4}}.tar\n")
    assert same(epoch(changed(recipe, allow_commands=True), tmp_path / "packed.list"), expected)
    with pytest.raises(ValueError, match=r"pipes.list:1: pipe:cat .* set data.sequential.allow_commands=true"):
        epoch(recipe, tmp_path / "pipes.list")


def test_object_stores_are_read_through_fsspec(recipe: RecipeConfig, shard_list: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in shard_list.parent.glob("*.tar"):
        memory.pipe(f"/corpus/{path.name}", path.read_bytes())
    (tmp_path / "store.list").write_text("memory://corpus/shard_{0..4}.tar\n")
    assert same(epoch(recipe, tmp_path / "store.list"), epoch(recipe, shard_list))
    (tmp_path / "store.list").write_text("memory://corpus/none.tar\n")
    with pytest.raises(ValueError, match="memory://corpus/none.tar: there is no such file in the store"):
        epoch(recipe, tmp_path / "store.list")


def test_nemo_manifests_of_tars(recipe: RecipeConfig, tmp_path: Path) -> None:
    words = ["one two", "three", "two"]
    clips = [
        wav(speak(text.split(), torch.manual_seed(0) and __import__("numpy").random.default_rng(0))) for text in words
    ]
    (tmp_path / "audio_0.tar").write_bytes(tar([("a.wav", clips[0]), ("filtered.wav", clips[1])]))
    (tmp_path / "audio_1.tar").write_bytes(tar([("b.wav", clips[1]), ("c.wav", clips[2])]))
    lines = [
        {"audio_filepath": "a.wav", "text": "one two", "duration": 1.0, "shard_id": 0},
        {"audio_filepath": "b-sub1.wav", "text": "three", "offset": 0.0, "duration": 0.2, "shard_id": 1},
        {"audio_filepath": "b-sub2.wav", "text": "two", "offset": 0.1, "duration": 0.15, "shard_id": 1},
        {"audio_filepath": "c.wav", "text": "two", "duration": 0.5, "shard_id": 1},
    ]
    manifest = tmp_path / "tarred_audio_manifest.json"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {}
    for loaded in epoch(recipe, manifest):
        found |= dict(zip(loaded.batch.keys, loaded.batch.token_lengths_B.tolist()))
    assert found == {"a": 2, "b-sub1-00000000": 1, "b-sub2-00000100": 1, "c": 1}
    moved = changed(recipe, nemo_tars=f"{tmp_path}/audio__OP_0..1_CL_.tar")
    assert [shard.name for shard in read_shards(manifest, moved.data.sequential)] == [
        f"{tmp_path}/audio_{number}.tar" for number in (0, 1)
    ]
    manifest.write_text(json.dumps({"audio_filepath": "a.wav", "text": "one"}) + "\n")
    with pytest.raises(ValueError, match="manifest.json:1: no shard_id .*data.data_type=raw"):
        epoch(recipe, manifest)


def test_lists_name_their_wrong_lines(recipe: RecipeConfig, shard_list: Path, tmp_path: Path) -> None:
    path = tmp_path / "shards.list"
    path.write_text(f"{shard_list.parent}/shard_0.tar\nabsent.tar\n{shard_list.parent}/shard_0.tar\n{{}}\n")
    with pytest.raises(
        ValueError, match=r"list:2: there is no shard .*absent.tar\n.*:3: .* is already in line 1\n.*:4"
    ):
        epoch(recipe, path)
    path.write_text("http://127.0.0.1:9/a.tar\n")
    indexed = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, data_type="shard"))
    with pytest.raises(ValueError, match=r"list:1: http://127.0.0.1:9/a.tar: .*set data.data_type=sequential"):
        build_source(indexed, path, build_tokenizer(recipe.tokenizer, Path()))


def test_a_run_starts_with_shards_to_train_and_to_validate_on(
    recipe: RecipeConfig, shard_list: Path, tmp_path: Path
) -> None:
    trainer = build_trainer(recipe, shard_list, shard_list, tmp_path, Placement(torch.device("cpu")))
    assert len(trainer.dev_data) == sum(SIZES) and trainer.dev_data.utterances[0].seconds > 0
    assert trainer.dev_data.frontend.sample_rate == 8000
