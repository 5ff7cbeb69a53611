"""The shared stages of recipes, run with commands that only print themselves."""

import subprocess
from pathlib import Path

import pytest
from support.recipes.recipe_clone import ROOT

SCRIPT = """
. {root}/tools/recipe.sh
. {root}/tools/data_sets.sh
need_stage() {{ :; }}; need_files() {{ :; }}; change_stage() {{ :; }}
wenet-fusion() {{ echo "wenet-fusion $*"; }}; wenet-fusion-runtime() {{ echo "${{described-}}"; }}
python() {{ echo "${{1##*/}} ${{*:2}}"; }}
root={root} here=$PWD dir=exp averaged=exp/avg_3.pt exported=exp/final.zip results=exp/results launcher=(wenet-fusion)
test_set=${{test_sets%% *}}
"""


def commands(folder: Path, stage: str, **variables: str) -> list[str]:
    """Run one function of recipe_stages.sh in `folder` and return the commands that it calls."""
    settings = "".join(f"{name}='{value}'\n" for name, value in variables.items())
    script = settings + SCRIPT.format(root=ROOT) + stage
    done = subprocess.run(["bash", "-euc", script], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe's folder with a dev and a test set."""
    for name in ("dev", "test"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "data.list").write_text("")
    (tmp_path / "exp").mkdir()
    return tmp_path


def test_times_are_corrected_only_if_the_dev_set_has_some_and_the_file_a_delay(folder: Path) -> None:
    (align,) = [line for line in commands(folder, "streaming_stage") if " align " in line]
    assert "--word_times" not in align
    (folder / "data" / "dev" / "words.ctm").write_text("")
    (align,) = [line for line in commands(folder, "streaming_stage") if " align " in line]
    assert "--word_times exp/final.zip" in align
    without = "timestamps  of the emitting frames; export with --ctm corrects them for emission delay"
    (align,) = [line for line in commands(folder, "streaming_stage", described=without) if " align " in line]
    assert "--word_times" not in align


def test_training_reports_emission_delays_if_the_dev_set_has_times(folder: Path) -> None:
    quiet = "stage_settings() { :; }; tokenizer=(t=1) train_launcher=(echo) overrides=training.dev_ctm=; training_stage"
    (before,) = commands(folder, quiet)[-1:]
    (folder / "data" / "dev" / "words.ctm").write_text("")
    (after,) = commands(folder, quiet)[-1:]
    assert before.endswith(" t=1 training.dev_ctm=") and after.endswith(
        " t=1 training.dev_ctm=data/dev/words.ctm training.dev_ctm="
    )


def test_every_test_set_is_evaluated_and_the_first_is_streamed(folder: Path) -> None:
    sets = {"test_sets": "clean other", "error_unit": "char", "decode_modes": "attention"}
    average, first, evaluated, second, other = commands(folder, "evaluation_stage", **sets)
    assert average.startswith("wenet-fusion average") and (first, second) == ("data/clean:", "data/other:")
    assert "--data data/clean/data.list --modes attention" in evaluated and "--unit char" in evaluated
    assert evaluated.endswith("--result_dir exp/results") and other.endswith("--result_dir exp/results_other")
    streamed = [line for line in commands(folder, "streaming_stage", **sets) if "measure_streaming" in line]
    assert len(streamed) == 2 and all("data/clean/data.list" in line for line in streamed)


def test_formats_are_exported_and_measured_if_they_are_named(folder: Path) -> None:
    assert len(commands(folder, "export_stage")) == 1
    _, measured = commands(folder, "export_stage", targets="onnx onnx:int8", export_utterances="7")
    assert measured == (
        "measure_exports.py exp/avg_3.pt --data data/dev/data.list --num_utterances 7 --targets onnx onnx:int8"
        " --output exp/exports"
    )


def test_the_language_model_may_come_from_elsewhere(folder: Path) -> None:
    train, perplexity, tune = commands(folder, "language_model_stage", lm_words="characters", test_sets="a b")
    assert "data/train/text --keyed --order 3 --prune 0 --words characters --output exp/lm.arpa" in train
    assert "exp/lm.arpa data/dev/text data/a/text data/b/text --keyed --words characters" in perplexity
    assert "--test data/a/data.list data/b/data.list" in tune
    train, *_ = commands(folder, "language_model_stage", lm_text="/other.txt.gz")
    assert train.startswith("train_ngram.py /other.txt.gz --order 3 --prune 0")
    train, *_ = commands(folder, "language_model_stage", lm_prune="0 0 1")
    assert "--order 3 --prune 0 0 1 --words" in train
    assert commands(folder, "language_model_stage", unknown_word_penalty="8")[-1].count("--unknown_word_penalty 8") == 1
    perplexity, tune = commands(folder, "language_model_stage", lm_arpa="/3gram.arpa.gz")
    assert perplexity.startswith("perplexity.py /3gram.arpa.gz") and "final.zip /3gram.arpa.gz --dev" in tune


def test_other_settings_are_part_of_the_stamps(folder: Path) -> None:
    """A stage is repeated if other settings change; stamps of earlier versions stay valid."""
    ask = (
        'fingerprint() { echo 0; }; corpus_settings() { echo corpus; }; for n in 3 5 6 8; do stage_settings "$n"; done'
    )
    plain = commands(folder, ask)
    changed = commands(
        folder,
        ask,
        test_sets="a b",
        error_unit="char",
        targets="onnx",
        lm_words="characters",
        lm_arpa="/x.arpa",
        unknown_word_penalty="8",
    )
    assert not any(
        word in line for line in plain for word in ("test_sets", "error_unit", "targets", "words=c", "from=", "unknown")
    )
    for line, words in zip(
        changed, (["test_sets"], ["test_sets", "error_unit"], ["targets"], ["words=c", "from=", "unknown=8"])
    ):
        assert all(word in line for word in words), line
