"""Run the recipes for public corpora from stage -1 to 8 on small corpora of tones in the official layouts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.model.tones import ToneRun
from support.recipes.corpus_layouts import write_aishell, write_librispeech_part
from support.recipes.recipe_clone import AISHELL, LIBRISPEECH, ROOT, clone_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TARGETS = "onnx wenet-onnx sherpa-onnx onnx:int8"


def run_recipe(recipe: Path, tmp_path: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """Run a recipe of the clone in `tmp_path` from the folder above it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}:{ROOT}/runtime", "OMP_NUM_THREADS": "1"}
    command = ["bash", str(Path("clone") / recipe / "run.sh"), *map(str, options)]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1700)


def check_exports(folder: Path) -> None:
    """Every format was measured on the dev set and has the checkpoint's error rate."""
    outcomes = json.loads((folder / "exports" / "exports.json").read_text())
    assert [f"{item['target']}:{item['precision']}".removesuffix(":float32") for item in outcomes] == TARGETS.split()
    for item in outcomes[:3]:
        assert item["refused"] == "" and item["checkpoint"] == item["exported"] and item["words"] > 8
    assert "| wenet-onnx | float32 |" in (folder / "exports" / "exports.md").read_text()


def test_aishell_counts_characters_in_every_stage(tmp_path: Path, tone_run: ToneRun) -> None:
    clone_recipe(tmp_path / "clone", AISHELL)
    write_aishell(tmp_path / "corpus" / "data_aishell", {"train": 60, "dev": 10, "test": 8})
    arguments = ["--data", "corpus", "--train_config", tone_run.config, "--chunkings", "full 8/2", "--average_num", "3",
        "--num_workers", "1", "--targets", TARGETS,
    ]  # fmt: skip
    done = run_recipe(AISHELL, tmp_path, *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    data = tmp_path / "clone" / AISHELL / "data"
    assert {line.split()[0] for line in (data / "lang" / "units.txt").read_text().splitlines()[3:]} == set("一二三")
    folder = tmp_path / "clone" / AISHELL / "exp" / "fusionformer_char_seed0"
    characters = sum(len(line.split()[1]) for line in (data / "test" / "text").read_text().splitlines())
    evaluated = json.loads((folder / "results" / "results.json").read_text())
    streamed = json.loads((folder / "stream.8-2" / "stream.json").read_text())
    assert {row["words"] for row in evaluated["rows"]} == {streamed["words"]} == {characters}
    assert streamed["wer"] < 0.5 and streamed["different"] == []
    check_exports(folder)
    table = json.loads((folder / "language_model.json").read_text())
    assert table["rows"][0]["test_without"] < 0.5, "in characters"
    again = run_recipe(AISHELL, tmp_path, *arguments)
    assert again.returncode == 0 and again.stdout.count("done before with the same settings") == 10


def test_librispeech_evaluates_each_test_set(tmp_path: Path, tone_run: ToneRun) -> None:
    clone_recipe(tmp_path / "clone", LIBRISPEECH)
    parts = {"train-clean-100": 40, "train-other-500": 20, "dev-clean": 10, "test-clean": 8, "test-other": 6}
    for seed, (part, count) in enumerate(parts.items()):
        # Archives unpack to a folder LibriSpeech; other parts may be there already.
        write_librispeech_part(tmp_path / "corpus" / ("LibriSpeech" if seed % 2 else ".") / part, count, seed)
    arguments = ["--data", "corpus", "--train_sets", "train-clean-100 train-other-500", "--dev_sets", "dev-clean",
        "--vocab_size", "12", "--train_config", tone_run.config, "--chunkings", "8/2", "--average_num", "3",
        "--num_workers", "1", "--targets", "", "--data_type", "shard", "--num_utts_per_shard", "25",
    ]  # fmt: skip
    done = run_recipe(LIBRISPEECH, tmp_path, *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = tmp_path / "clone" / LIBRISPEECH / "exp" / "fusionformer_bpe_seed0"
    for name in ("results", "results_test-other"):
        rows = json.loads((folder / name / "results.json").read_text())["rows"]
        assert rows[0]["mode"] == "ctc_greedy_search" and len(rows) == 4
    tuned = json.loads((folder / "language_model.json").read_text())["rows"]
    assert [row["test"] for row in tuned] == ["data/test-clean/data.list", "data/test-other/data.list"]
    assert len(tuned) == 2 and tuned[0]["dev_with"] == tuned[1]["dev_with"]
    assert json.loads((folder / "stream.8-2" / "stream.json").read_text())["data"] == "data/test-clean/data.list"


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    clone_recipe(tmp_path / "clone", LIBRISPEECH)
    write_librispeech_part(tmp_path / "corpus" / "train-clean-100", 2)
    done = run_recipe(LIBRISPEECH, tmp_path, "--data", "corpus", "--train_sets", "train-clean-100", "--stage", "0")
    assert done.returncode == 1 and "corpus/dev-clean is missing: run stage -1 first: bash" in done.stderr
