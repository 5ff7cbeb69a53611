"""Shards read in sequence: utterances that cannot be used, shards that cannot be read."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.data.sequential_epochs import (  # noqa: F401  # recipe and impatient are fixtures
    ENDLESS,
    LOADING,
    changed,
    epoch,
    impatient,
    keys,
    recipe,
    source,
)  # fmt: skip
from support.data.shards import served, tar, utterance_members, write_shards

from wenet_fusion.data.filters import Filters
from wenet_fusion.data.judgement import Skip
from wenet_fusion.data.sequential import byte_stream
from wenet_fusion.evaluation.data_check import check_data
from wenet_fusion.ranks import Ranks
from wenet_fusion.recipe import RecipeConfig

pytestmark = pytest.mark.usefixtures("impatient")


def damaged_list(folder: Path, data: bytes) -> Path:
    path = write_shards(folder, (3, 3))
    (folder / "shard_1.tar").write_bytes(data)
    return path


def test_problems_of_utterances_are_counted_and_named(recipe: RecipeConfig, tmp_path: Path) -> None:
    good, torn = utterance_members("good", 1), utterance_members("torn", 2)
    members = [
        *good,
        ("textless.wav", good[1][1]),
        ("silent.txt", b"one"),
        ("latin.txt", b"\xe9"),
        ("latin.wav", good[1][1]),
        ("noise.txt", b"one"),
        ("noise.wav", b"no audio"),
        ("empty.txt", b"one"),
        ("empty.wav", b""),
        ("eleven.txt", b"eleven"),
        ("eleven.wav", good[1][1]),
        torn[0],
        ("torn.wav", torn[1][1][:-300]),
    ]
    path = damaged_list(tmp_path, tar(members))
    dataset = source(changed(recipe, max_skipped=1.0), path)
    batches = list(dataset.epoch(0, 0, ENDLESS, LOADING, Ranks()).batches)
    assert sum(len(batch) for batch in keys(batches)) == 4
    reasons, shard = {skip.key: str(skip) for skip in dataset.skipped}, str(tmp_path / "shard_1.tar")
    assert sorted(reasons) == ["eleven", "empty", "latin", "noise", "silent", "textless", "torn"]
    assert all(line.count(shard) == 1 for line in reasons.values()), reasons
    with pytest.raises(ValueError, match="7 of 11 utterances cannot be used:\n(.|\n)*raise data.max_skipped"):
        epoch(recipe, path)
    report = check_data(changed(recipe, max_skipped=1.0), path)
    assert report.utterances == 4 and {skip.key: str(skip) for skip in report.skipped} == reasons
    assert "not in the vocabulary: 'eleven' 1" in report.facts[1]


@pytest.mark.parametrize("decode", [None, 4, 0])
def test_a_check_measures_shards_as_it_measures_lists(recipe: RecipeConfig, tmp_path: Path, decode: int | None) -> None:
    members = [*utterance_members("first", 900), *utterance_members("second", 901), *utterance_members("again", 900)]
    flac = io.BytesIO()
    soundfile.write(flac, np.random.default_rng(0).normal(0, 0.1, 8000), 8000, format="FLAC")
    path = damaged_list(tmp_path, tar([*members, ("torn.txt", b"one"), ("torn.flac", flac.getvalue()[:5000])]))
    config = changed(recipe, max_skipped=1.0)
    found = check_data(config, path, decode)
    assert {skip.key for skip in found.skipped} == ({"torn"} if decode is None else set())
    listed = check_data(dataclasses.replace(config, data=dataclasses.replace(config.data, data_type="shard")), path)
    for mine, other in zip(found.distributions, listed.distributions, strict=True):
        assert mine[:2] == other[:2]
        np.testing.assert_allclose(mine.values[:6], other.values[:6])
    (note,) = (note for note in found.notes if "transcript and duration" in note)
    assert f"{tmp_path}/shard_1.tar at byte" in note and note.endswith("again and first")
    longest = float(found.distributions[0].values.max())
    assert f"the longest utterance has {longest:.2f} s ({tmp_path}/shard_" in found.facts[-1]
    assert found.facts[0].endswith(
        {None: "all of their audio", 4: "the first 2 utterances of each"}.get(decode, "none of their audio")
    )


def test_keys_that_cannot_name_files_are_named_with_their_shard(recipe: RecipeConfig, tmp_path: Path) -> None:
    """Members of a tar name utterances; a control character could rewrite the terminal."""
    hostile = ["a\x1b[2J", "a b", "../out", "/abs"]
    members = [member for n, key in enumerate(["fine", *hostile]) for member in utterance_members(key, n)]
    path = damaged_list(tmp_path, tar([*members, ("lost\x1b[2J.txt", b"one")]))
    dataset = source(changed(recipe, max_skipped=1.0), path)
    batches = list(dataset.epoch(0, 0, ENDLESS, LOADING, Ranks()).batches)
    assert {key for batch in keys(batches) for key in batch} == {"s0-u00", "s0-u01", "s0-u02", "fine"}
    shard, lines = str(tmp_path / "shard_1.tar"), sorted(map(str, dataset.skipped))
    assert len(lines) == 5 and "".join(lines).isprintable()
    for key, reason in zip(hostile, ("holds control", "must be one word", "would put", "would put")):
        assert sum(f"{shard}: key {key!r} {reason}" in line for line in lines) == 1, lines
    assert any(line.startswith(r"lost\x1b[2J: ") for line in lines), lines


@pytest.mark.parametrize(
    "how, message",
    [
        ("truncated", r"shard_1.tar: damaged after its first 3 members, or not a tar"),
        ("no tar", r"shard_1.tar: damaged at its beginning, or not a tar"),
        ("absent", r"http://\S+/absent.tar: the server answers 404"),
        ("busy", r"http://\S+/busy.tar: the server answers 503 .*in 4 tries"),
        ("cut", r"http://\S+/cut.tar: the connection ended \d+ bytes too early \(after \d members, in 4 tries"),
        ("unreachable", r"http://127.0.0.1:9/a.tar: .*refused.* \(in 4 tries\); check the network"),
        ("command", r"pipe:echo lost .*: the command ended with status 3: lost the key \(in 4 tries\)"),
        ("pipeline", r"pipe:false \| cat: the command ended with status 1: without a message"),
    ],
)
def test_a_shard_that_cannot_be_read_is_named_and_the_others_are_used(
    recipe: RecipeConfig, tmp_path: Path, how: str, message: str
) -> None:
    path = write_shards(tmp_path, (3, 3))
    whole = (tmp_path / "shard_1.tar").read_bytes()
    places = {
        "absent": "{}/absent.tar",
        "busy": "{}/busy.tar",
        "cut": "{}/cut.tar",
        "unreachable": "http://127.0.0.1:9/a.tar",
        "command": "pipe:echo lost the key >&2; exit 3",
        "pipeline": "pipe:false | cat",
    }
    (tmp_path / "cut.tar").write_bytes(whole)
    (tmp_path / "shard_1.tar").write_bytes(whole[: len(whole) * 3 // 5] if how == "truncated" else b"no tar" * 200)
    with served(tmp_path, lambda name, count: name.partition(".")[0]) as url:
        path.write_text(f"shard_0.tar\n{places.get(how, 'shard_1.tar').format(url)}\n")
        dataset = source(changed(recipe, max_skipped=0.5, allow_commands=True), path)
        batches = list(dataset.epoch(0, 0, ENDLESS, LOADING, Ranks()).batches)
        used = {key for batch in keys(batches) for key in batch}
        assert used >= {"s0-u00", "s0-u01", "s0-u02"}
        assert ("s1-u00" in used) == (how in ("truncated", "cut")), "utterances before the damage are used"
        assert any(re.search(message, str(skip)) for skip in dataset.skipped), dataset.skipped
        with pytest.raises(ValueError, match=r"1 of 2 shards cannot be read:\n  " + ".*" + message):
            epoch(changed(recipe, allow_commands=True), path)


def test_the_status_of_a_command_counts_after_the_end_of_its_tar(recipe: RecipeConfig, tmp_path: Path) -> None:
    path = write_shards(tmp_path, (7,))
    path.write_text(f"pipe:cat {tmp_path}/shard_0.tar; echo more; exit 4\n")
    dataset = source(changed(recipe, max_skipped=1.0, allow_commands=True, retries=0), path)
    assert len(keys(list(dataset.epoch(0, 0, ENDLESS, LOADING, Ranks()).batches))) == 3
    assert "ended with status 4" in dataset.skipped[0].reason


def test_utterances_that_filters_leave_out_are_counted_in_each_epoch(recipe: RecipeConfig, tmp_path: Path) -> None:
    path = write_shards(tmp_path, (6, 6))
    config = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, filters=Filters(longest_tokens=2)))
    dataset, found = source(config, path), []
    for number in range(3):
        batches = list(dataset.epoch(number, 0, ENDLESS, LOADING, Ranks()).batches)
        left_out = 12 - sum(map(len, keys(batches)))
        found.append(dataset.notes()[0])
        assert left_out > 3 and dataset.skipped == []
        assert found[-1].startswith(f"{left_out} utterances are beyond data.filters (longest_tokens {left_out}): ")
        assert found[-1].count("; ") == 2, "the first three are named"
    assert check_data(config, path).notes[0].startswith(f"{left_out} utterances are beyond")


class _Unread(list[Skip]):
    def __iter__(self):  # type: ignore[no-untyped-def]
        raise AssertionError("read for a batch without skips")


def test_a_batch_without_skips_reads_no_earlier_ones(recipe: RecipeConfig, tmp_path: Path) -> None:
    dataset = source(recipe, write_shards(tmp_path, (1,)))
    dataset.record([Skip("a", "is empty")])
    dataset.skipped = _Unread(dataset.skipped)
    dataset.record([])
    dataset.record([Skip("b", "lasts long", rule="longest_seconds")])
    assert len(dataset.skipped) == 1 and dataset.notes()


def test_an_epoch_without_utterances_is_an_error(recipe: RecipeConfig, tmp_path: Path) -> None:
    path = write_shards(tmp_path, (1,))
    (tmp_path / "shard_0.tar").write_bytes(tar([("a.txt", b"one")]))
    with pytest.raises(ValueError, match="fewer usable utterances than there are ranks(.|\n)*a: .*has no audio"):
        epoch(changed(recipe, max_skipped=1.0), path)


def test_a_command_without_output_is_ended(
    recipe: RecipeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_stream, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(byte_stream, "_PATIENCE_SECONDS", 0.1)
    path = tmp_path / "shards.list"
    path.write_text("pipe:sleep 1000\n")
    with pytest.raises(ValueError, match=r"pipe:sleep 1000: no bytes for 0.2 s \(in 1 tries\)"):
        epoch(changed(recipe, allow_commands=True, retries=0), path)


def test_a_missing_list_has_a_remedy(recipe: RecipeConfig, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone.list: there is no such list; write it with .*make_shard_list.py"):
        source(recipe, tmp_path / "gone.list")
    (tmp_path / "raw.list").write_text('{"key": "a", "wav": "a.wav", "txt": "one"}\n')
    with pytest.raises(
        ValueError, match="raw.list:1: no audio_filepath, .* for a list without tars, set data.data_type=raw"
    ):
        source(recipe, tmp_path / "raw.list")
