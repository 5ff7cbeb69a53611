"""The shell scripts: option parsing, the environment, refused stages, and the folder that relative paths start from."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.recipes.recipe_clone import RECIPE, ROOT, clone_recipe
from support.recipes.toy_digits import write_checkout

SCRIPTS = [*sorted((ROOT / "tools").glob("*.sh")), *sorted((ROOT / "examples").glob("*/s0/*.sh")), ROOT / ".ci" / "run"]

OPTIONS_SCRIPT = """#!/usr/bin/env bash
# What it does.
set -euo pipefail

# options
stage=-1        # the first stage
quoted="a b"    # two words
empty=          # nothing yet
fast=false      # true or false
. "{root}/tools/parse_options.sh"
echo "stage=$stage quoted=$quoted empty=$empty fast=$fast rest=$* given=$given_options"
"""


def run(command: list[str | Path], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in `folder`; the active environment is that of the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=variables, capture_output=True, text=True, timeout=120,
        start_new_session=True,
    )  # fmt: skip


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.sh"
    path.write_text(OPTIONS_SCRIPT.format(root=ROOT))
    return path


def test_options_are_two_arguments(script: Path) -> None:
    typed = ["--stage", "3", "--quoted", "x  y", "--empty", "", "--fast", "true", "left"]
    done = run(["bash", script, *typed], script.parent)
    values, _, given = done.stdout.rstrip("\n").partition(" given=")
    assert values == "stage=3 quoted=x  y empty= fast=true rest=left"
    assert given == " --quoted x\\ \\ y --empty '' --fast true"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "3"], "invalid option --stages"),
        (["--stage=3"], "invalid option --stage=3: the value is an argument of its own"),
        (["--stage"], "option --stage needs a value"),
        (["--fast", "yes"], "option --fast takes true or false, not 'yes'"),
        (["--a;b", "1"], "invalid option --a;b"),
    ],
)
def test_bad_options_end_the_script(script: Path, arguments: list[str], message: str) -> None:
    done = run(["bash", script, *arguments], script.parent)
    assert done.returncode == 1 and message in done.stderr and "stage=" not in done.stdout


def test_help_prints_comments_and_defaults(script: Path) -> None:
    done = run(["bash", script, "--help"], script.parent)
    assert done.returncode == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines() if line]
    assert lines == [
        "What it does.", "--stage the first stage [-1]", "--quoted two words [a b]", "--empty nothing yet",
        "--fast true or false [false]",
    ]  # fmt: skip


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_parse_and_pass_shellcheck(path: Path) -> None:
    assert run(["bash", "-n", path], ROOT).returncode == 0
    if shutil.which("shellcheck"):
        done = run(["shellcheck", "-x", "-P", "SCRIPTDIR", path], ROOT)
        assert not done.stdout


# A Python without packages that makes environments from itself, and writes its arguments to $log.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$log"
case "$*" in
  *check_environment.py*) echo "it has no torch" >&2; exit 1 ;;
  *version_info*) exit "${too_new:-0}" ;;
  *"-m venv"*) mkdir -p "${!#}/bin"; cp "$0" "${!#}/bin/python" ;;
  *"-m pip --version"*) ;;
  *"-m pip install"*) [ "${interrupt:-}" ] && kill -9 0; exit "${pip_status:-0}" ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that the environment depends on, and a fake Python in bin/."""
    root = tmp_path / "clone"
    (root / "runtime").mkdir(parents=True)
    for name in ("pyproject.toml", "runtime/pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "bin").mkdir()
    for name in ("python", "python3"):
        (root / "bin" / name).write_text(FAKE_PYTHON)
        (root / "bin" / name).chmod(0o755)
    return root


def set_up(clone: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Source env.sh; return its output and the calls of venv and pip that the fake Python got."""
    log = clone / "log"
    log.write_text("")
    path = f"{clone / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = 'set -euo pipefail; . tools/env.sh; command -v python; echo "$env_seconds"'
    done = run(["bash", "-c", command], clone, **{"PATH": path, "log": str(log), "PYTHON": "", **environment})
    calls = log.read_text().splitlines()
    return done, [word for call in calls for word in ("-m venv", "pip install") if word in call]


def test_environment_is_made_once(clone: Path) -> None:
    done, calls = set_up(clone)
    assert calls == ["-m venv", "pip install"], done.stderr
    assert done.stdout.splitlines()[0] == str(clone / ".venv" / "bin" / "python")
    assert set_up(clone)[1] == []
    (clone / "constraints.txt").write_text("tqdm==4.70.1\n")
    assert set_up(clone)[1] == ["pip install"]


def test_interrupted_installation_is_made_anew(clone: Path) -> None:
    done, _ = set_up(clone, interrupt="1")
    assert done.returncode != 0
    done, calls = set_up(clone)
    assert done.returncode == 0 and calls == ["-m venv", "pip install"]


def test_failing_pip_is_explained_and_tried_again(clone: Path) -> None:
    done, _ = set_up(clone, pip_status="1")
    assert done.returncode == 1 and "error: pip could not install the packages" in done.stderr
    assert set_up(clone)[1] == ["pip install"]


def test_unsuitable_python_is_explained(clone: Path) -> None:
    done, calls = set_up(clone, too_new="1", PYTHON="python3")
    assert done.returncode == 1 and "no Python 3.10 to 3.13" in done.stderr and calls == []


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A clone with the digits recipe in which the environment check is quick, and a tiny corpus beside it."""
    root = tmp_path / "clone"
    clone_recipe(root)
    write_checkout(tmp_path / "fsdd")
    return root


def run_recipe(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the recipe from the folder above the clone, with few strings."""
    script = Path("clone") / RECIPE / "run.sh"
    return run(["bash", script, "--train_strings", "20", *options], root.parent, PYTHONPATH=f"{ROOT}:{ROOT}/runtime")


def test_recipe_makes_data_from_a_path_relative_to_the_caller(recipe: Path) -> None:
    done = run_recipe(recipe, "--data", "fsdd", "--stop_stage", "0")
    assert done.returncode == 0, done.stderr
    assert "RECORDED SPEECH" in done.stdout and "=== stage 0: digit strings" in done.stdout
    text = recipe / RECIPE / "data" / "train" / "text"
    first = text.read_text()

    again = run_recipe(recipe, "--data", "fsdd", "--stop_stage", "0")
    assert again.stdout.count("done before with the same settings") == 2

    refused = run_recipe(recipe, "--seed", "1", "--stage", "2", "--stop_stage", "2")
    assert refused.returncode == 1
    assert "stage 0 (digit strings) was last done with other settings: give the same options as then" in refused.stderr
    assert "--seed 1 --stage 0 --stop_stage 0" in refused.stderr
    assert text.read_text() == first

    other = run_recipe(recipe, "--seed", "1", "--stage", "0", "--stop_stage", "0")
    assert other.returncode == 0 and "done before" not in other.stdout
    assert text.read_text() != first


def test_stages_refuse_to_start_on_nothing(recipe: Path) -> None:
    missing = {
        "0": "data/source.json is missing: run stage -1 first: ",
        "2": "data/train/text is missing: run stage 0 first: ",
        "4": "stage 0 (digit strings) was not finished: run stage 0 first: ",
        "5": "data/train/data.list is missing: run stage 3 first: ",
        "6": "avg_5.pt is missing: run stage 5 first: ",
        "7": "data/test/data.list is missing: run stage 3 first: ",
        "8": "data/train/text is missing: run stage 0 first: ",
    }
    for stage, message in missing.items():
        done = run_recipe(recipe, "--stage", stage, "--stop_stage", stage, "--average_num", "5")
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_recipe_names_what_is_wrong_with_its_options(recipe: Path) -> None:
    for options, message in (
        (["--data", "absent", "--stop_stage", "-1"], f"{recipe.parent}/absent: no such folder"),
        (["--units", "phones"], "--units phones is not words, char or bpe"),
        (["--seed", "one"], "--seed one is not a number"),
        (["--train_config", "absent.yaml"], "--train_config absent.yaml: no such file"),
        (["--checkpoint", "absent.pt"], f"--checkpoint {recipe.parent}/absent.pt: no such file"),
        (["surplus"], "unexpected argument 'surplus'"),
    ):
        done = run_recipe(recipe, *options)
        assert done.returncode == 1 and message in done.stderr, done.stderr


# ---- the ranks of a training, and its start


def test_hosts_that_train_together_share_the_data(recipe: Path) -> None:
    (recipe / RECIPE / "data").mkdir()
    with open(recipe / RECIPE / "data" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # another host would hold it like this
        alone = run_recipe(recipe, "--stage", "4", "--stop_stage", "4")
        assert "another run of this recipe uses" in alone.stderr
        together = run_recipe(
            recipe, "--stage", "4", "--stop_stage", "4", "--num_nodes", "2", "--HOST_NODE_ADDR", "node1:29400"
        )
        assert "stage 0 (digit strings) was not finished" in together.stderr
        preparing = run_recipe(recipe, "--num_nodes", "2", "--HOST_NODE_ADDR", "node1:29400")
        assert "another run of this recipe uses" in preparing.stderr


def test_a_training_starts_from_a_checkpoint(tmp_path: Path) -> None:
    quiet = (
        "need_stage() { :; }; change_stage() { :; }; stage_settings() { :; }; tokenizer=(t=1); train_launcher=(echo)"
    )
    for checkpoint, shown in (("/models/m.pt", "--model_dir exp --init_from /models/m.pt seed=0"), ("", "exp seed=0")):
        script = f'dir=exp; checkpoint={checkpoint}; . "{ROOT}/tools/recipe.sh"; {quiet}; training_stage'
        assert shown in run(["bash", "-euc", script], tmp_path).stdout


@pytest.mark.parametrize(
    "settings, train, evaluate",
    [
        ("num_gpus=1", "wenet-fusion", "wenet-fusion"),
        (
            "num_gpus=8",
            "python -m torch.distributed.run --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint localhost:0 -m "
            "wenet_fusion.cli",
            None,
        ),
        (
            "num_gpus=8 num_nodes=2 HOST_NODE_ADDR=node1:29400 job_id=7",
            "python -m torch.distributed.run --nproc_per_node 8 --rdzv_backend c10d --nnodes 2 --rdzv_endpoint "
            "node1:29400 --rdzv_id 7 -m wenet_fusion.cli",
            "python -m torch.distributed.run --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint localhost:0 -m "
            "wenet_fusion.cli",
        ),
        (
            "num_gpus=1 num_nodes=2 HOST_NODE_ADDR=node1:29400",
            "python -m torch.distributed.run --nproc_per_node 1 --rdzv_backend c10d --nnodes 2 --rdzv_endpoint "
            "node1:29400 --rdzv_id 2023 -m wenet_fusion.cli",
            "wenet-fusion",
        ),
    ],
)
def test_variables_choose_the_ranks(settings: str, train: str, evaluate: str | None, tmp_path: Path) -> None:
    script = f'{settings}; . "{ROOT}/tools/recipe.sh"; choose_launchers; '
    done = run(["bash", "-euc", script + 'echo "${train_launcher[*]}"; echo "${launcher[*]}"'], tmp_path)
    assert done.stdout.splitlines() == [train, evaluate or train], done.stderr


@pytest.mark.parametrize(
    "settings, message",
    [
        ("num_gpus=0", "--num_gpus and --num_nodes must be at least 1"),
        ("num_nodes=2", "give HOST:PORT of the first host, such as node1:29400"),
        ("num_nodes=2 HOST_NODE_ADDR=node1", "--HOST_NODE_ADDR node1: with --num_nodes 2 give HOST:PORT"),
    ],
)
def test_ranks_that_cannot_meet_are_refused(settings: str, message: str, tmp_path: Path) -> None:
    done = run(["bash", "-euc", f'{settings}; . "{ROOT}/tools/recipe.sh"; choose_launchers'], tmp_path)
    assert done.returncode == 1 and message in done.stderr
