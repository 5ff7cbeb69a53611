"""Two ranks train on a generated corpus of LibriSpeech's size, are killed, and continue with the same losses."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import tiny_recipe
from support.data.shards import write_shards
from support.model.runs import with_training
from support.model.tones import lively

from wenet_fusion.config import to_yaml

SHARDS, PER_SHARD, STEPS, KILLED_AFTER = 281, 1000, 50, 25

# Writes a tar with the recordings of another tar under new keys, so that 281,000 files need no disk space.
MAKE_SHARD = """
import io, sys, tarfile
from pathlib import Path

source, shard, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with tarfile.open(source) as tar:
    files = [(Path(member.name).suffix, tar.extractfile(member).read()) for member in tar]
pairs = [files[n : n + 2] for n in range(0, len(files), 2)]
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
    for number in range(count):
        for suffix, data in pairs[(7 * shard + number) % len(pairs)]:
            member = tarfile.TarInfo(f"{shard:03d}-{number:04d}{suffix}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
"""


def train(folder: Path, model_dir: Path) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    lists = ["--train_data", str(folder / "corpus.list"), "--dev_data", str(folder / "dev/shards.list")]
    options = ["--config", str(folder / "config.yaml"), *lists, "--model_dir", str(model_dir), "--device", "cpu"]
    return subprocess.Popen(
        [*launcher, "-m", "wenet_fusion.cli", "train", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def losses(model_dir: Path) -> list[tuple[int, float, float]]:
    entries = map(json.loads, (model_dir / "train_log.jsonl").read_text().splitlines())
    return [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in entries if entry["kind"] == "step"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_ranks_train_on_281000_utterances_and_survive_a_kill(tiny_units: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "source", (32,))
    write_shards(tmp_path / "dev", (3,))
    (tmp_path / "make_shard.py").write_text(MAKE_SHARD)
    source, numbers = tmp_path / "source/shard_0.tar", f"{{0..{SHARDS - 1}}}"
    command = f"pipe:{sys.executable} {tmp_path}/make_shard.py {source} {numbers} {PER_SHARD}\n"
    (tmp_path / "corpus.list").write_text(command)
    recipe = with_training(lively(tiny_recipe(tiny_units)), max_steps=STEPS, max_batch_rows=8, save_interval_steps=10)
    sequential = dataclasses.replace(recipe.data.sequential, allow_commands=True)
    data = dataclasses.replace(recipe.data, data_type="sequential", sequential=sequential)
    (tmp_path / "config.yaml").write_text(to_yaml(dataclasses.replace(recipe, data=data)))

    began = time.monotonic()
    whole = train(tmp_path, tmp_path / "whole")
    first_step = 0.0
    while whole.poll() is None:
        log = tmp_path / "whole/train_log.jsonl"
        if not first_step and log.exists() and log.read_text():
            first_step = time.monotonic() - began
        time.sleep(0.1)
    assert whole.stdout is not None and whole.returncode == 0, whole.stdout.read()
    took = time.monotonic() - began

    killed = train(tmp_path, tmp_path / "killed")
    log = tmp_path / "killed/train_log.jsonl"
    while not log.exists() or log.read_text().count("\n") < KILLED_AFTER:
        assert killed.poll() is None and killed.stdout is not None
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    resumed = train(tmp_path, tmp_path / "killed")
    assert resumed.stdout is not None
    said = resumed.stdout.read()
    assert resumed.wait() == 0, said
    assert "resuming" in said and f"{SHARDS} shards, read in sequence" in said
    expected = losses(tmp_path / "whole")
    assert [step for step, *_ in expected] == list(range(1, STEPS + 1))
    assert losses(tmp_path / "killed") == expected
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"first update after {first_step:.1f} s, {STEPS} in {took:.1f} s, at most {memory:.2f} GB per process")
