"""The template recipe turns a tiny corpus in Kaldi's format into a streamed model."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.data.shards import served, write_shards
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
        (folder / "words.ctm").unlink()  # few corpora have the times of words
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


def test_sets_that_have_their_list_need_no_other_files(tmp_path: Path) -> None:
    """data_sets.sh: the files that stage 0 must write for each set, by the type of the data."""
    for name, files in {"train": ["shards.list"], "dev": ["wav.scp", "cuts.jsonl.gz"], "test": ["wav.scp"]}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for file in files:
            (tmp_path / "data" / name / file).write_text("x")
    script = (
        f". {ROOT}/tools/data_sets.sh; for data_type in raw sequential lhotse; do data_sets; set_files train dev; done"
    )
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    kaldi = "data/{0}/wav.scp data/{0}/text"
    assert done.stdout.splitlines() == [
        *("dev", "test", kaldi.format("train"), kaldi.format("dev")),
        *("train", "dev", "test", "data/train/shards.list", kaldi.format("dev")),
        *("dev", "test", "data/train/cuts.jsonl.gz", "data/dev/cuts.jsonl.gz"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("data_type", ["sequential", "lhotse"])
def test_lists_of_other_kinds_are_trained_evaluated_and_exported(root: Path, tone_run: ToneRun, data_type: str) -> None:
    """Training shards come from a server, and dev and test sets become shards; or all sets are lhotse cuts."""
    corpus = root.parent / "corpus"
    arguments = ["--data", "corpus", "--units", "words", "--train_config", tone_run.config, "--chunkings", "full 8/2",
        "--overrides", "training.max_steps=4 training.validate_interval_steps=2", "--average_num", "2",
        "--decode_modes", "ctc_greedy_search", "--data_type", data_type, "--stop_stage", "7",
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        if data_type == "sequential":
            shards = write_shards(root.parent / "shards", (20, 20, 20))
            url = stack.enter_context(served(shards.parent))
            (corpus / "train" / "shards.list").write_text(f"{url}/shard_{{0..2}}.tar\n")
            for name in ("wav.scp", "text"):
                (corpus / "train" / name).unlink()
        else:
            for name in ("train", "dev", "test"):
                write_cuts(corpus / name)
        done = run_template(root, *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert ("3 shards, read in sequence" in done.stdout) == (data_type == "sequential")
    folder = root / TEMPLATE / "exp" / "fusionformer_words_seed0"
    for name in ("final.zip", "results/report.html", "stream.8-2/stream.json"):
        assert (folder / name).is_file(), name


def write_cuts(folder: Path) -> None:
    """Replace wav.scp and text of a set by lhotse's cuts."""
    lhotse = pytest.importorskip("lhotse")
    texts = dict(line.rstrip().split(" ", 1) for line in (folder / "text").read_text().splitlines())
    cuts = []
    for key, text in texts.items():
        cut = lhotse.Recording.from_file(folder / f"{key}.wav", recording_id=key).to_cut()
        cut.id = key
        cut.supervisions = [lhotse.SupervisionSegment(key, key, 0.0, cut.duration, text=text)]
        cuts.append(cut)
    lhotse.CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    for name in ("wav.scp", "text"):
        (folder / name).unlink()
