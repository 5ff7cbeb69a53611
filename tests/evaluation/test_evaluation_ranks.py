"""Several processes find the results of one process, and do not wait for a process that has ended."""

import functools
import json
import operator
import os
import socket
import subprocess
import sys

import pytest
from support.recipes.scripts import run

from wenet_fusion.ranks import Ranks

OPTIONS = (
    "--modes",
    "ctc_greedy_search",
    "attention_rescoring",
    "--chunkings",
    "full",
    "8/2",
    "--max_batch_seconds",
    "4",
)

# Rank 1 of two ends, or hangs, in its second batch.
ILL_RANK = """
import os, sys, time
from wenet_fusion.cli.__main__ import main
from wenet_fusion import ranks
from wenet_fusion.evaluation import decode_list

how, *arguments = sys.argv[1:]
decode, batches = decode_list.BatchDecoder.decode, []

def ill(self, number, utterances):
    batches.append(number)
    if os.environ["RANK"] == "1" and len(batches) == 2:
        if how == "killed":
            os.kill(os.getpid(), 9)
        elif how == "disk":
            raise OSError(28, "No space left on device", "rank1.jsonl")
        time.sleep(600)
    return decode(self, number, utterances)

decode_list.BatchDecoder.decode = ill
ranks.PATIENCE_SECONDS = 3.0
try:
    sys.exit(main(arguments))
except OSError as error:
    sys.exit(f"error: {error}")
"""


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def start_ranks(command, world=2):
    """Processes with torchrun's variables, without torchrun, which would end all of them if one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE=str(world), RANK=str(rank)),
        )
        for rank in range(world)
    ]  # fmt: skip


def evaluation(tone_run, result_dir):
    return [
        "evaluate",
        "--checkpoint",
        tone_run.checkpoint,
        "--data",
        tone_run.dev_list,
        "--result_dir",
        result_dir,
        *OPTIONS,
    ]


def test_two_ranks_find_what_one_process_finds(tone_run, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ["-m", "wenet_fusion.cli", *map(str, evaluation(tone_run, tmp_path / "two"))]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=120, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("attention_rescoring") == 2, "one rank prints"
    assert run(*evaluation(tone_run, tmp_path / "one")) == 0
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*") if path.is_file()
    )
    timed = {"results.json", "report.html", "report.md"}
    for path in files:
        if path.name not in timed:
            assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path
    assert "2 processes" in json.loads((tmp_path / "two/results.json").read_text())["facts"]["machine"]


@pytest.mark.parametrize(
    "how", ["killed", pytest.param("disk", marks=pytest.mark.slow), pytest.param("stuck", marks=pytest.mark.slow)]
)
def test_the_others_do_not_wait_for_a_rank_that_is_gone(tone_run, tmp_path, how):
    ranks = start_ranks(["-c", ILL_RANK, how, *evaluation(tone_run, tmp_path)])
    try:
        _, printed = ranks[0].communicate(timeout=200)  # rank 1 would hang for longer
        assert ranks[0].returncode == 1
        last = printed.strip().splitlines()[-1]
        if how == "disk":
            assert last == "error: rank 1 failed: [Errno 28] No space left on device: 'rank1.jsonl'"
        else:
            assert last.startswith("error: another rank has ended, or does not answer (")
        kept = [path.name for path in (tmp_path / "unfinished").iterdir()]
        assert {"rank0.jsonl", "rank1.jsonl"} <= set(kept), "what was decoded is kept"
        assert not (tmp_path / "results.json").exists()
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def test_shares_are_disjoint_and_complete():
    items = list(range(11))
    shares = [Ranks(rank, 3).share(items) for rank in range(3)]
    assert sorted(functools.reduce(operator.iadd, shares, [])) == items and {len(share) for share in shares} == {3, 4}
    assert Ranks().share(items) == items and Ranks().first("a") == "a" and Ranks().all("a") == ["a"]
