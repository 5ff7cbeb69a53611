"""The commands recipe from texts to a streamed model, with a stand-in for the command flite."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.model.tones import write_corpus
from support.recipes.recipe_clone import ROOT, clone_recipe

COMMANDS = "examples/commands/s0"
FLITE = """#!{python}
import sys
import numpy as np
import soundfile
text, path = sys.argv[sys.argv.index("-t") + 1], sys.argv[sys.argv.index("-o") + 1]
rng = np.random.default_rng(len(text))
soundfile.write(path, rng.uniform(-0.3, 0.3, 1600 * len(text)), 16000)
"""
SIZES = (
    "training.max_steps=6 training.save_interval_steps=3 training.max_batch_seconds=30 training.optim.warmup_steps=2 "
    "training.frozen_statistics_steps=2 model.encoder.layers=2 model.loss.intermediate_layers=[1]"
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables with a command flite that speaks noise, and a package home_assistant_intents with one sentence."""
    commands, packages = tmp_path / "bin", tmp_path / "packages"
    (packages / "home_assistant_intents" / "data").mkdir(parents=True)
    (packages / "home_assistant_intents" / "__init__.py").touch()
    content = {"intents": {"One": {"data": [{"sentences": ["open the door"]}]}}, "lists": {}, "expansion_rules": {}}
    (packages / "home_assistant_intents" / "data" / "en.json").write_text(json.dumps(content))
    commands.mkdir()
    (commands / "flite").write_text(FLITE.format(python=sys.executable))
    (commands / "flite").chmod(0o755)
    path = f"{commands}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    python_path = os.pathsep.join([str(ROOT), f"{ROOT}/runtime", str(packages)])
    return {**os.environ, "PATH": path, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}


def run_commands(root: Path, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", f"{root}/{COMMANDS}/run.sh", *options]
    return subprocess.run(command, cwd=root.parent, env=environment, capture_output=True, text=True, timeout=900)


def write_english(corpus: Path) -> None:
    for seed, (name, speakers) in enumerate({"train": 24, "dev": 4}.items()):
        write_corpus(corpus / name, 2 * speakers, seed=seed)
        keys = [line.split()[0] for line in (corpus / name / "wav.scp").read_text().splitlines()]
        (corpus / name / "utt2spk").write_text(
            "".join(f"{key} {name}{number % speakers:02d}\n" for number, key in enumerate(keys))
        )


@pytest.mark.slow
def test_texts_become_speech_and_a_model(tmp_path: Path, environment: dict[str, str]) -> None:
    root = tmp_path / "clone"
    clone_recipe(root, COMMANDS)
    write_english(tmp_path / "corpora" / "english")
    options = ["--data", "corpora", "--speech", "speech", "--synthesizers", "flite=0.02", "--whisper", "",
        "--foreign_hours", "0", "--sound_hours", "0.01", "--wordless_test_hours", "0.02",
        "--test_sets", "english_dev", "--average_num", "1",
        "--vocab_size", "60", "--lm_sentences", "2000", "--chunkings", "full 8/8", "--overrides", SIZES,
    ]  # fmt: skip
    done = run_commands(root, environment, *options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = root / COMMANDS / "exp" / "fusionformer_bpe_seed0"
    for name in ("final.zip", "results/report.html", "stream.8-8/stream.json", "lm.arpa"):
        assert (folder / name).is_file(), name
    keys = {line.split()[0].split("-")[0] for line in (root / COMMANDS / "data/train/text").read_text().splitlines()}
    assert {"flite", "sounds"} <= keys
    sounds = (root / COMMANDS / "data" / "sounds" / "text").read_text().splitlines()
    assert len(sounds) > 3 and not [line for line in sounds if len(line.split()) > 1]
    again = run_commands(root, environment, *options)
    assert again.returncode == 0 and again.stdout.count("done before with the same settings") == 10


@pytest.mark.slow
def test_new_words_are_spoken_and_test_texts_are_not_in_the_language_model(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    root, speech = tmp_path / "a clone", tmp_path / "speech"
    clone_recipe(root, COMMANDS)
    write_english(tmp_path / "corpora" / "english")
    options = ["--data", "corpora", "--speech", "speech", "--synthesizers", "flite=0.004", "--whisper", "",
        "--foreign_hours", "0", "--sound_hours", "0", "--lm_sentences", "100"]  # fmt: skip
    done = run_commands(root, environment, *options, "--stop_stage", "0")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    spoken = [line.split("\t")[1] for line in (speech / "texts" / "flite.tsv").read_text().splitlines()]
    shared = next(text for text in spoken if len(text.split()) > 3)
    (tmp_path / "corpora" / "text").mkdir()
    (tmp_path / "corpora" / "text" / "open.txt.gz").write_bytes(
        gzip.compress(f"{shared.lower()}!\nSome open text.\n".encode())
    )
    (speech / "test_voices").mkdir()
    (speech / "texts" / "test_voices.tsv").write_text("words\tSECRET\n")
    recording = (speech / "flite" / "wav.scp").read_text().split()[1]
    for name, value in (("wav.scp", recording), ("text", shared), ("utt2spk", "a")):
        (speech / "test_voices" / name).write_text(f"test_voices-0 {value}\n")
    (speech / "texts" / "foreign.tsv").write_text("foreign-de\tLicht an\n")
    (speech / "flite" / "kept").write_text("")  # of an earlier run with Whisper
    grammar = root / COMMANDS / "conf" / "grammar.yaml"
    grammar.write_text(
        grammar.read_text().replace('"yes", "no", "up"', '"abracadabra"').replace("words: 14", "words: 999")
    )
    done = run_commands(root, environment, *options, "--stop_stage", "3")  # optional corpora and sets may be missing
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    texts = [line.split("\t")[1] for line in (speech / "texts" / "flite.tsv").read_text().splitlines()]
    lines = (speech / "flite" / "text").read_text().splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines] == texts[: len(lines)]
    assert set(lines) <= set((root / COMMANDS / "data" / "train" / "text").read_text().splitlines())
    written = (root / COMMANDS / "data" / "text" / "lm.txt").read_text().splitlines()
    assert "SECRET" not in written and shared not in written and "SOME OPEN TEXT" in written
    assert 90 <= len(written) - len(texts) <= 101
    assert set(texts) <= {*written, shared}
    assert (root / COMMANDS / "data" / "english_dev" / "data.list").is_file()


def test_wrong_options_are_refused(tmp_path: Path, environment: dict[str, str]) -> None:
    clone_recipe(tmp_path / "clone", COMMANDS)
    done = run_commands(tmp_path / "clone", environment, "--synthesizers", "hal=9000")
    assert done.returncode == 1
    assert "error: --synthesizers hal=9000: give NAME=HOURS with hibari, kokoro, flite or festival" in done.stderr
    done = run_commands(tmp_path / "clone", environment)
    assert done.returncode == 1 and "error: --data is missing: give the folder that holds english/" in done.stderr
    done = run_commands(tmp_path / "clone", environment, "--data", str(tmp_path / "no where"))
    assert done.returncode == 1 and "no where/english/train/wav.scp is missing or empty: the README says" in done.stderr
    write_english(tmp_path / "corpora" / "english")
    done = run_commands(tmp_path / "clone", environment, "--data", "corpora", "--synthesizers", "flite=1 kokoro=1")
    assert done.returncode == 1 and "error: --kokoro '': holds no kokoro.onnx" in done.stderr
