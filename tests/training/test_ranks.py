"""Law: ranks train like one process on all their batches; a resumed run of ranks equals an uninterrupted run."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import absent, randomise, tiny_recipe
from support.model.batches import joined, random_batch
from support.model.rank_processes import run_ranks
from support.model.rank_runs import run_all
from support.model.runs import differences, with_training
from support.model.tones import ToneRun, lively

from wenet_fusion.data.augmentation.feature_masks import SpecAugmentConfig
from wenet_fusion.data.augmentation.feature_substitution import SubstitutionConfig
from wenet_fusion.data.augmentation.feature_trim import TrimConfig
from wenet_fusion.data.batch import Batch
from wenet_fusion.data.batching import epoch_batches, rank_batches
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.layers import norm
from wenet_fusion.model.losses import LossConfig
from wenet_fusion.ranks import Ranks
from wenet_fusion.recipe import RecipeConfig
from wenet_fusion.training.optimisation import update
from wenet_fusion.training.optimisation.update import Gradient, Gradients
from wenet_fusion.training.state.checkpoint import load_model, load_training_state

CHANGES = SpecAugmentConfig(2, 10, 2, 6, 0.3, SubstitutionConfig(2, 20), TrimConfig(40))
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model in float64, and for each rank the batches of an update."""

    recipe: RecipeConfig
    model: AsrModel
    batches: list[list[Batch]]


def result(case: Case, batches: list[Batch], ranks: Ranks) -> tuple[Gradient, dict[str, torch.Tensor]]:
    """Compute an update's gradient, and return it with the model's parameters' and statistics."""
    torch.set_default_dtype(torch.float64)
    try:
        model = copy.deepcopy(case.model).train()
        gradients = Gradients(model, case.recipe.training, CHANGES, case.recipe.seed, ranks)
        found = gradients.compute(3, batches, torch.optim.SGD(model.parameters()), stop=ranks.rank == 1)
    finally:
        torch.set_default_dtype(torch.float32)
    values = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return found, {**values, **{name: value for name, value in model.named_buffers() if "running_" in name}}


def results_of_rank(ranks: Ranks, cases: list[Case], bug: str) -> list:
    if bug == "statistics":
        update.synchronise_statistics = norm.norms  # type: ignore[assignment]
    if bug == "weights":
        update.Gradients._rows = lambda self, batches: torch.ones(2, len(batches), dtype=torch.int64)  # type: ignore
    return [result(case, case.batches[ranks.rank], ranks) for case in cases]


@pytest.fixture(scope="module")
def cases(tiny_units: Path) -> list[Case]:
    made, rng = [], np.random.default_rng(0)
    methods = LossConfig(consistency_weight=0.2, intermediate_layers=(1,), intermediate_heads="own", delay_penalty=0.01)
    plans = [(1, (3, 2)), (1, (1, 4)), (2, (2, 3)), (1, (2, 1))]
    for number, (accumulate, rows) in enumerate(plans):
        recipe = with_training(tiny_recipe(tiny_units), accumulate=accumulate, checkpoint_activations=number in (2, 3))
        torch.manual_seed(number)
        encoder = dataclasses.replace(recipe.model.encoder, dropout=0.0, norm="batch" if number == 1 else "fusion")
        decoder = dataclasses.replace(recipe.model.decoder, dropout=0.0)
        loss = methods if number == 3 else recipe.model.loss
        config = dataclasses.replace(recipe.model, encoder=encoder, decoder=decoder, loss=loss)
        model = AsrModel(config, 13).double()
        randomise(model, number)
        batches = [[random_batch(rng, count + index) for index in range(accumulate)] for count in rows]
        made.append(Case(recipe, model, batches))
    return made


def largest_difference(cases: list[Case], found: list[list]) -> float:
    """The largest difference between two ranks and one, relative to each tensor's largest value."""
    worst = 0.0
    for number, case in enumerate(cases):
        together = [joined(list(step)) for step in zip(*case.batches)]
        expected, values = result(case, together, Ranks())
        for mine, own in (rank[number] for rank in found):
            assert own.keys() == values.keys() and len(own) > 100
            for name, value in values.items():
                # The gradient of a bias before a BatchNorm is zero.
                scale = max(float(value.detach().abs().max()), 1e-4 * expected.norm)
                worst = max(worst, float((own[name] - value).detach().abs().max()) / scale)
            pairs = zip(mine[:6], expected[:6])
            worst = max([worst, *(abs(left - right) / max(abs(right), 1e-9) for left, right in pairs)])
            assert mine.stop and not expected.stop, "all ranks know that one was asked to stop"
    return worst


def test_two_ranks_equal_one(cases: list[Case], tmp_path: Path) -> None:
    """Gradients, losses and running statistics, with uneven rows and frames, changed features, accumulation."""
    assert largest_difference(cases, run_ranks(results_of_rank, 2, tmp_path, cases, "")) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("bug", ["statistics", "weights"])
def test_the_check_sees_ranks_that_do_not_share(cases: list[Case], tmp_path: Path, bug: str) -> None:
    assert largest_difference(cases, run_ranks(results_of_rank, 2, tmp_path, cases, bug)) > 1e-4


# ---- batches


def test_ranks_share_all_batches_and_take_the_same_number_of_steps() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        count, world = int(rng.integers(1, 60)), int(rng.integers(1, 6))
        plan = epoch_batches(rng.uniform(1, 5, count).tolist(), 12.0, 4, seed=0, epoch=0)
        shares = [rank_batches(plan, rank, world) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        dealt = [index for share in shares for batch in share for index in batch]
        assert len(set(dealt)) == len(dealt) > count - world, "none twice, and fewer than `world` left out"
        assert all(batch for share in shares for batch in share)
        resumed = rank_batches(plan[world:], 0, world) if len(plan) >= world else shares[0]
        assert resumed == shares[0][-len(resumed) :] if resumed else True, "a resumed epoch goes on with its batches"


# ---- runs


def test_two_ranks_resume_where_they_were(tiny_units: Path, corpus: tuple[Path, Path], tmp_path: Path) -> None:
    """With dropout, whose draws differ between ranks; 20 utterances in batches of 3 are 7 batches, an odd number."""
    recipe = with_training(
        lively(tiny_recipe(tiny_units)), max_steps=7, max_batch_rows=3, max_batch_seconds=60.0, save_interval_steps=1
    )
    whole = run_all(tmp_path, "whole", recipe, corpus, ())
    resumed = run_all(tmp_path, "resumed", recipe, corpus, (3, 6))
    state = load_training_state(whole)
    assert state is not None and state.step == 7 and state.epoch == 1 and len(state.rng) == 2
    assert not torch.equal(*state.rng), "each rank has its own dropout"
    assert differences(state, load_training_state(resumed), "state") == []
    names = sorted(path.name for path in whole.glob("step_*.pt"))
    assert names == ["step_000004.pt", "step_000007.pt"]
    for name in names:
        assert differences(load_model(whole / name), load_model(resumed / name), name) == []


# ---- the command


def training(tone_run: ToneRun, model_dir: Path, *overrides: str) -> list[str]:
    lists = ["--train_data", str(tone_run.train_list), "--dev_data", str(tone_run.dev_list)]
    options = ["--config", str(tone_run.config), *lists, "--model_dir", str(model_dir), "--device", "cpu"]
    return ["train", *options, "training.max_batch_rows=4", *overrides]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(arguments: list[str]) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [sys.executable, *launcher, "-m", "wenet_fusion.cli", *arguments]


@pytest.mark.slow
def test_torchrun_trains_prints_once_and_resumes_on_one_process(tone_run: ToneRun, tmp_path: Path) -> None:
    command = torchrun(training(tone_run, tmp_path / "exp", "training.max_steps=4"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained to step 4") == done.stdout.count("parameters on cpu, 2 ranks") == 1
    log = (tmp_path / "exp/train_log.jsonl").read_text().splitlines()
    assert sum('"kind": "step"' in line for line in log) == 4, "one rank writes"
    alone = [sys.executable, "-m", "wenet_fusion.cli", *training(tone_run, tmp_path / "exp", "training.max_steps=4")]
    assert "trained to step 4" in subprocess.run(alone, capture_output=True, text=True, env=environment()).stdout


@pytest.mark.slow
def test_two_hosts_train_as_two_ranks_of_one(tone_run: ToneRun, tmp_path: Path) -> None:
    """Each host is a network namespace; the two share one wire."""
    names, addresses = [f"wf{os.getpid()}{side}" for side in "ab"], ["10.213.0.1", "10.213.0.2"]
    wire = ["ip", "link", "add", "wire0", "netns", names[0], "type", "veth", "peer", "name", "wire0", "netns", names[1]]
    setup = [["ip", "netns", "add", name] for name in names] + [wire]
    for name, address in zip(names, addresses):
        inside = ["ip", "-n", name]
        setup.append([*inside, "addr", "add", f"{address}/24", "dev", "wire0"])
        setup += [[*inside, "link", "set", device, "up"] for device in ("lo", "wire0")]
    hosts: list[subprocess.Popen[str]] = []
    try:
        if shutil.which("ip") is None or any(subprocess.run(line, capture_output=True).returncode for line in setup):
            absent("network namespaces need the program ip and the rights of root", "WENET_FUSION_REQUIRE_NAMESPACES")
        for number, (name, address) in enumerate(zip(names, addresses)):
            options = ["--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d", "--rdzv_id", "7"]
            options += ["--rdzv_endpoint", f"{addresses[0]}:29400", "--local_addr", address]
            options += ["--rdzv_conf", f"is_host={1 - number}", "-m", "wenet_fusion.cli"]
            arguments = [*options, *training(tone_run, tmp_path / "hosts", "training.max_steps=4")]
            command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *arguments]
            wired = {**environment(), "GLOO_SOCKET_IFNAME": "wire0"}
            hosts.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=wired)
            )
        said = [host.communicate(timeout=250)[0] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    assert [host.returncode for host in hosts] == [0, 0], said
    assert "trained to step 4" in said[0] and "trained" not in said[1], "one rank prints"
    command = torchrun(training(tone_run, tmp_path / "ranks", "training.max_steps=4"))
    subprocess.run(command, capture_output=True, timeout=200, env=environment(), check=True)
    apart, together = (load_model(tmp_path / name / "step_000004.pt").weights for name in ("hosts", "ranks"))
    assert differences(apart, together) == []


# A rank of two that ends in its second update, for several reasons.
ILL_RANK = """
import os, sys
from wenet_fusion_runtime.console import exit_status
from wenet_fusion.cli.__main__ import main
from wenet_fusion.training.optimisation.update import Gradients

how, *arguments = sys.argv[1:]
compute = Gradients.compute

def ill(self, step, *others):
    if os.environ["RANK"] == "1" and step == 2:
        if how == "killed":
            os.kill(os.getpid(), 9)
        raise OSError(28, "No space left on device", "rank1")
    return compute(self, step, *others)

Gradients.compute = ill
sys.exit(exit_status(lambda: main(arguments)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "disk"])
def test_the_run_ends_in_seconds_when_a_rank_ends(tone_run: ToneRun, tmp_path: Path, how: str) -> None:
    arguments = [how, *training(tone_run, tmp_path / "exp", "training.max_steps=50")]
    (tmp_path / "ill_rank.py").write_text(ILL_RANK)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, str(tmp_path / "ill_rank.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment(), check=False)
    assert done.returncode != 0
    if how == "disk":
        assert "error: rank1: No space left on device" in done.stderr
    assert "trained to step" not in done.stdout


@pytest.mark.parametrize("receivers", ["training", "all processes"])
def test_sigterm_saves_and_ends(tone_run: ToneRun, tmp_path: Path, receivers: str) -> None:
    """A scheduler ends jobs this way. The run resumes at that step, even if loading processes get the signal."""
    arguments = training(
        tone_run, tmp_path / "exp", "training.max_steps=100000", "training.save_interval_steps=100000",
        f"training.num_workers={int(receivers != 'training')}",
    )  # fmt: skip
    command = [sys.executable, "-m", "wenet_fusion.cli", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    log = tmp_path / "exp/train_log.jsonl"
    wait_until(lambda: log.exists() and log.read_text().count("\n") >= 3)
    if receivers == "training":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 143, err
    state = load_training_state(tmp_path / "exp")
    assert state is not None and f"stopped by SIGTERM at step {state.step}; the same command goes on" in out
    assert state.step == sum('"kind": "step"' in line for line in log.read_text().splitlines())


def wait_until(condition: Callable[[], bool], seconds: float = 100.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
