"""The template recipe on a tiny corpus in Kaldi's format, from the folders to a model that is streamed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.model.tones import ToneRun, write_corpus
from support.recipes.recipe_clone import ROOT, TEMPLATE, clone_recipe


def run_template(root: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """Run the template from the folder above the clone."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}:{ROOT}/runtime", "OMP_NUM_THREADS": "1"}
    command = ["bash", str(Path("clone") / TEMPLATE / "run.sh"), *map(str, options)]
    return subprocess.run(command, cwd=root.parent, env=environment, capture_output=True, text=True, timeout=900)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clone with the template, and a corpus of tones beside it whose paths are relative to the caller's folder."""
    clone_recipe(tmp_path / "clone", TEMPLATE)
    for seed, (name, count) in enumerate({"train": 60, "dev": 8, "test": 8}.items()):
        folder = write_corpus(tmp_path / "corpus" / name, count, seed=seed).parent
        scp = (folder / "wav.scp").read_text()
        (folder / "wav.scp").write_text(scp.replace(f"{tmp_path}/", ""))
    return tmp_path / "clone"


@pytest.mark.slow
def test_a_corpus_in_kaldi_format_is_one_command_from_a_streamed_model(root: Path, tone_run: ToneRun) -> None:
    arguments = ["--data", "corpus", "--units", "words", "--train_config", tone_run.config, "--chunkings", "full 8/2",
        "--average_num", "3",
    ]  # fmt: skip
    done = run_template(root, *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = root / TEMPLATE / "exp" / "fusionformer_words_seed0"
    for name in ("final.zip", "results/report.html", "stream.8-2/stream.json", "align/words.ctm", "lm.arpa"):
        assert (folder / name).is_file(), name
    again = run_template(root, *arguments)
    assert again.returncode == 0 and again.stdout.count("done before with the same settings") == 9


def test_what_is_missing_is_named(root: Path) -> None:
    done = run_template(root)
    assert done.returncode == 1 and "error: --data is missing: give the folder that holds train/" in done.stderr
    (root.parent / "corpus" / "dev" / "text").unlink()
    done = run_template(root, "--data", "corpus")
    assert done.returncode == 1 and "corpus/dev/text is missing or empty" in done.stderr


@pytest.mark.slow
def test_a_variable_trains_on_two_ranks(root: Path, tone_run: ToneRun) -> None:
    arguments = ["--data", "corpus", "--units", "words", "--train_config", tone_run.config, "--chunkings", "full",
        "--overrides", "training.max_steps=4 training.validate_interval_steps=2", "--average_num", "2",
        "--decode_modes", "ctc_greedy_search", "--num_gpus", "2", "--stop_stage", "5",
    ]  # fmt: skip
    done = run_template(root, *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "M parameters on cpu, 2 ranks" in done.stdout
    folder = root / TEMPLATE / "exp" / "fusionformer_words_seed0"
    assert (folder / "step_000004.pt").is_file() and (folder / "results/report.html").is_file()
