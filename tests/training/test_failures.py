"""Failures that end a run from outside name cause and remedy, and the run resumes from the last saved state."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import tiny_recipe
from support.model.runs import start, with_training
from support.runtime.full_disk import files_of_at_most
from torch.utils.data import DataLoader, get_worker_info

from wenet_fusion.data.batching import epoch_batches
from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.data.loading import iterate, worker_failure
from wenet_fusion.training.progress.run_log import RunLog
from wenet_fusion.training.state.checkpoint import STATE_BEFORE_NAME, STATE_NAME, list_checkpoints, load_training_state

NO_MEMORY = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: 99 bytes"


@pytest.fixture(scope="module")
def recipe(tiny_units):
    """Epochs have 5 updates; the state is saved at every second step."""
    changes = {"max_steps": 7, "max_batch_rows": 4, "max_batch_seconds": 60.0, "save_interval_steps": 2}
    return with_training(tiny_recipe(tiny_units), **changes)


@pytest.fixture
def dataset(recipe, corpus, tmp_path):
    return start(recipe, corpus, tmp_path / "dataset").train_data


def planned(dataset):
    return epoch_batches(dataset.seconds, 60.0, 4, seed=0, epoch=0)


# ---- processes that load batches


@pytest.mark.timeout(60)
def test_without_shared_memory_batches_come_through_the_pipe(dataset, monkeypatch):
    """Docker gives 64 MB of shared memory. DataLoader alone would print a traceback from a thread and wait forever."""

    def full(*_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    expected = list(iterate(dataset, planned(dataset), 0, 0))
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    found = list(iterate(dataset, planned(dataset), 0, 1))
    assert [batch.keys for batch in found] == [batch.keys for batch in expected]
    assert all(torch.equal(a, b) for left, right in zip(found, expected) for a, b in zip(left[1:], right[1:]))


@pytest.mark.parametrize("number, name", [(signal.SIGKILL, "Killed"), (signal.SIGBUS, "Bus error")])
def test_a_killed_process_is_named_with_the_likely_cause(dataset, monkeypatch, number, name):
    load = SpeechDataset.load

    def killed(self, indices, epoch):
        if get_worker_info() is not None:
            os.kill(os.getpid(), number)
        return load(self, indices, epoch)

    monkeypatch.setattr(SpeechDataset, "load", killed)
    with pytest.raises(OSError, match=rf"a process that loads batches was killed \({name}\)") as caught:
        list(iterate(dataset, planned(dataset), 0, 1))
    remedy = "--shm-size=1g" if number == signal.SIGBUS else "lower training.num_workers or training.max_batch_seconds"
    assert remedy in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_that_runs_out_while_loading_names_the_utterances(dataset, monkeypatch, workers):
    def load(self, indices, epoch):
        raise MemoryError("Unable to allocate 99 GiB")

    monkeypatch.setattr(SpeechDataset, "load", load)
    with pytest.raises(OSError, match=r"memory ran out .*99 GiB.* loading 4 utterances \(u\d+, ...\): lower training"):
        list(iterate(dataset, planned(dataset), 0, workers))


def test_processes_that_cannot_start_say_what_may_lack(dataset, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")  # a semaphore needs a page of shared memory

    monkeypatch.setattr(DataLoader, "__iter__", full)
    with pytest.raises(OSError, match="num_workers 1: processes .* cannot be started .*--shm-size=1g.*num_workers=0"):
        list(iterate(dataset, planned(dataset), 0, 1))


def test_other_errors_are_not_taken_for_a_killed_process():
    assert worker_failure(RuntimeError("shape mismatch")) is None
    message = "DataLoader worker (pid(s) 7, 8) exited unexpectedly"
    assert "a process that loads batches was killed" in str(worker_failure(RuntimeError(message)))


# ---- memory


def test_memory_that_runs_out_names_the_batch_and_a_smaller_one_goes_on(recipe, corpus, tmp_path, capsys):
    trainer = start(recipe, corpus, tmp_path / "run")
    forward = trainer.model.forward

    def limited(*arguments):
        if trainer.step == 4:
            raise RuntimeError(NO_MEMORY)
        return forward(*arguments)

    trainer.model.forward = limited
    with pytest.raises(OSError) as caught:
        trainer.run()
    message = str(caught.value)
    for part in (
        "memory ran out in step 4, in a batch of 4 utterances and ",
        "(the longest has ",
        "with training.max_batch_seconds: 60: lower it, and raise training.accumulate by the same factor",
        "goes on from the last saved state",
        "can't allocate memory: 99 bytes",
    ):
        assert part in message, message
    assert "\n" not in message
    smaller = with_training(recipe, max_batch_rows=2, max_batch_seconds=30.0, accumulate=2)
    capsys.readouterr()
    again = start(smaller, corpus, tmp_path / "run")
    assert (again.step, again.epoch, again.batch) == (2, 0, 0)
    assert "at step 2\nthe size of the batches has changed: epoch 0 starts again\n" in capsys.readouterr().out
    again.run()
    assert again.step == 7


# ---- the disk


def test_a_full_disk_names_the_file_and_leaves_what_was_there(recipe, corpus, tmp_path):
    folder = tmp_path / "run"
    trainer = start(recipe, corpus, folder)
    trainer.run()
    before = {path.name: path.read_bytes() for path in folder.glob("*.pt")}
    for size in (0, 100_000, len(before[STATE_NAME]) - 100):
        with files_of_at_most(size), pytest.raises(OSError) as caught:
            trainer._save_state()
        assert str(caught.value).startswith(
            f"{folder / STATE_NAME} cannot be written (File too large); free some space"
        )
        with files_of_at_most(min(size, 100_000)), pytest.raises(OSError, match=r"step_000007.pt cannot be written"):
            trainer._save_model(1.0, 0.5)
        assert {path.name: path.read_bytes() for path in folder.iterdir() if ".pt" in path.name} == before


# ---- damaged files


def test_the_state_before_a_damaged_one_is_offered_and_goes_on(recipe, corpus, tmp_path):
    folder = tmp_path / "run"
    start(recipe, corpus, folder).run()
    state, before = folder / STATE_NAME, folder / STATE_BEFORE_NAME
    whole = state.read_bytes()
    for share in (0.001, 0.3, 0.6, 0.9, 0.999):
        state.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError) as caught:
            start(recipe, corpus, folder)
        message = str(caught.value)
        assert message.startswith(f"{state} cannot be read: it is cut off or damaged, or of another program (")
        assert "Errno 22] Invalid argument: give" not in message
        assert message.endswith(
            f"; the state before it, of step 6, is whole: go on from there with mv {before} {state}"
        )
    before.replace(state)
    again = start(recipe, corpus, folder)
    assert again.step == 6
    again.run()
    assert load_training_state(folder).step == 7 and len(list_checkpoints(folder)) == 2


def test_lines_of_the_log_that_are_no_entries_stop_no_resume(tmp_path, capsys):
    path = tmp_path / "train_log.jsonl"
    good = [json.dumps({"kind": "step", "step": step}) for step in (1, 2)]
    bad = ["null", "5", "[1]", "{}", '{"step": "x"}', '{"step": null}', "[" * 100_000, '{"step": 1', "\udcff"]
    path.write_text("\n".join([good[0], *bad, good[1]]), encoding="utf-8", errors="surrogateescape")
    log = RunLog(path, 2)
    log.step(3, 0, {"loss": 1.0})
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    assert capsys.readouterr().err == f"{path}: dropped 9 invalid lines\n"


# ---- two runs


HOLDER = """
import sys, time
from pathlib import Path
from wenet_fusion_runtime.files import hold_lock
file = hold_lock(Path(sys.argv[1]), "{holder}")
print("held", flush=True)
time.sleep(60)
"""


def test_two_runs_do_not_share_a_folder(recipe, corpus, tmp_path):
    folder = tmp_path / "run"
    start(recipe, corpus, folder).run()
    before = {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    command = [sys.executable, "-c", HOLDER, str(folder / "training.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            message = f"{folder} is being trained by another process .number {holder.pid}.: wait .* another --model_dir"
            with pytest.raises(OSError, match=message):
                start(recipe, corpus, folder)
        finally:
            holder.kill()
    after = {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    assert after.keys() == before.keys() and all(after[name] == before[name] for name in before if ".lock" not in name)
    start(recipe, corpus, folder)
