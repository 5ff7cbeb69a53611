"""The command wenet-fusion: every verb works, and every user error gives one message with a remedy."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.recipes.scripts import TOOLS, run
from wenet_fusion_runtime import Recognizer
from wenet_fusion_runtime.search.modes import GREEDY

from wenet_fusion.cli.__main__ import build_parser
from wenet_fusion.config import to_yaml
from wenet_fusion.training.state.checkpoint import load_model, save_model

VERBS = ("train", "average", "evaluate", "score", "report", "align", "export", "check", "inspect")


def command(*arguments, cwd):
    """Run the installed command in its own process."""
    program = Path(sys.executable).with_name("wenet-fusion")
    return subprocess.run([program, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)


# ---- the verbs at work


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        run(verb, "--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: wenet-fusion {verb}") and "default: None" not in out
    _, sentence, *_ = out.split("\n\n")
    assert sentence[0].isupper() and sentence.endswith(".") and ". " not in sentence, (
        "the help begins with one sentence"
    )
    examples = re.split(r"\n\nexamples:\n", out)[1].splitlines()
    for example in examples:
        command, name, *arguments = shlex.split(example)
        assert (command, name) == ("wenet-fusion", verb)
        parsed, rest = build_parser().parse_known_args([name, *arguments])
        assert all("=" in item and hasattr(parsed, "overrides") for item in rest), "every example can be run"


def test_checking_data_needs_a_configuration(tone_run, capsys):
    with pytest.raises(SystemExit) as caught:
        run("check", "data", tone_run.train_list)
    assert caught.value.code == 2 and "check data needs --config: its tokenizer" in capsys.readouterr().err


def test_an_unknown_verb_is_answered_with_all_verbs(capsys):
    with pytest.raises(SystemExit) as caught:
        run("tarin")
    message = capsys.readouterr().err
    assert caught.value.code == 2 and all(verb in message for verb in VERBS)


def test_train_and_train_again(train, tmp_path, capsys):
    assert train() == 0
    out = capsys.readouterr().out
    for part in ("training: 100 utterances", "dev: 30 utterances", "M parameters on cpu", "step 2: train loss"):
        assert part in out
    assert out.endswith("exp: trained to step 2, 0 updates skipped, 0 utterances skipped\n")
    folder = tmp_path / "exp"
    assert (folder / "train.yaml").read_text() == load_model(folder / "step_000002.pt").config_yaml
    before = (folder / "train_log.jsonl").read_bytes(), (folder / "step_000002.pt").read_bytes()
    assert train() == 0
    out = capsys.readouterr().out
    assert "resuming" in out and "trained to step 2" in out and "train loss" not in out
    assert before == ((folder / "train_log.jsonl").read_bytes(), (folder / "step_000002.pt").read_bytes())


def test_average_evaluate_score(tone_run, tmp_path, capsys):
    averaged = tmp_path / "avg.pt"
    run(
        "average",
        "--model_dir",
        tone_run.model_dir,
        "--num",
        2,
        "--best",
        "--batches",
        4,
        "--train_data",
        tone_run.train_list,
        "--output",
        averaged,
    )
    out = capsys.readouterr().out
    assert out.startswith("averaging step_000075.pt, step_000100.pt\n") and "average of 2" in out
    results = tmp_path / "results"
    assert (
        run(
            "evaluate",
            "--checkpoint",
            averaged,
            "--data",
            tone_run.dev_list,
            "--result_dir",
            results,
            "--modes",
            GREEDY,
        )
        == 0
    )
    table = capsys.readouterr().out.splitlines()
    rows = [[GREEDY, "plain", "full"], [GREEDY, "plain", "8/2"], [GREEDY, "plain", "4/4"]]
    assert [line.split()[:3] for line in table[1:-1]] == rows and table[-1].startswith(f"{results / 'report.html'}: ")
    rows = json.loads((results / "results.json").read_text())["rows"]
    assert all(row["wer"] < 0.1 for row in rows)
    reference = tone_run.dev_list.with_name("text")
    assert run("score", reference, results / f"{GREEDY}.8-2/text") == 0
    assert capsys.readouterr().out == (results / f"{GREEDY}.8-2/wer").read_text()


def test_a_model_trained_on_shards_is_evaluated_on_a_raw_list(tone_run, tmp_path):
    yaml = load_model(tone_run.checkpoint).config_yaml.replace("data_type: raw", "data_type: shard")
    checkpoint = tmp_path / "step_000100.pt"
    save_model(dataclasses.replace(load_model(tone_run.checkpoint), config_yaml=yaml), checkpoint)
    data = ("--data", tone_run.dev_list)
    results = ("--result_dir", tmp_path / "results", "--modes", GREEDY, "--chunkings", "full")
    assert run("evaluate", "--checkpoint", checkpoint, *data, *results) == 0
    assert run("export", checkpoint, tmp_path / "exported.pt", *data, "--num_utterances", 1) == 0
    lists = ("--train_data", tone_run.train_list, "--dev_data", tone_run.dev_list)
    arguments = ("--model_dir", tmp_path, "--num", 1, "--batches", 1, "--output", tmp_path / "averaged.pt")
    assert run("average", *arguments, *lists) == 0


def test_score_reports_missing_utterances(tmp_path, capsys):
    (tmp_path / "ref").write_text("a one two\nb three\n")
    (tmp_path / "hyp").write_text("a one too\n")
    assert run("score", tmp_path / "ref", tmp_path / "hyp") == 1
    message = (
        f"1 key is in only one of the two files:\nb is missing in {tmp_path / 'hyp'}: all its words count as deleted\n"
    )
    assert message in capsys.readouterr().err
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="empty: holds no transcript; .* on each line a key, then its words"):
        run("score", tmp_path / "empty", tmp_path / "hyp")
    assert run("score", tmp_path / "ref", tmp_path / "empty", "--brief") == 1


def test_check_model(tone_run, capsys):
    audio = tone_run.dev_list.with_name("u000.wav")
    assert run("check", "model", tone_run.checkpoint, "--audio", audio) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("6 of 6 hold") and all(line.startswith("holds") for line in lines[:-1])


def test_check_data(tone_run, capsys):
    assert run("check", "data", tone_run.train_list, "--config", tone_run.config) == 0
    assert "100 utterances, 0.0" in capsys.readouterr().out


def test_overrides_may_come_before_and_after_options(tone_run, train, tmp_path, capsys):
    units = f"tokenizer.units={tmp_path / 'gone'}"
    data = ("check", "data", tone_run.train_list)
    for arguments in (
        (*data, "--config", tone_run.config, "seed=1", units),
        (*data, units, "--config", tone_run.config),
        (*data, "seed=1", "--config", tone_run.config, units),
        ("check", "--config", tone_run.config, *data[1:], units),
        ("train", "seed=1", "--config", tone_run.config, units, "--train_data", tone_run.train_list,
         "--dev_data", tone_run.dev_list, "--model_dir", tmp_path / "exp", "training.max_steps=2"),
    ):  # fmt: skip
        with pytest.raises(OSError, match="gone"):
            run(*arguments)
    for wrong in ("seed", "--sede=1"):
        with pytest.raises(SystemExit):
            run(*data, "--config", tone_run.config, wrong)
        assert f"unrecognized arguments: {wrong}\n" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("inspect", tone_run.checkpoint, "seed=1")
    with pytest.raises(ValueError, match="seed: expected a whole number"):
        train("seed=one")


# ---- configurations, models, devices


def test_an_empty_directory_is_no_list_and_no_model(train, tone_run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for verb in (lambda: train(train_list=empty), lambda: run("check", "model", empty), lambda: run("inspect", empty)):
        with pytest.raises((ValueError, OSError), match=str(empty)):
            verb()
    with pytest.raises(ValueError, match=f"{empty} holds no step_"):
        run("average", "--model_dir", empty, "--train_data", tone_run.train_list, "--output", tmp_path / "a.pt")


def test_a_typo_in_the_configuration_is_answered_with_a_suggestion(train, tone_run, tmp_path):
    config = tmp_path / "typo.yaml"
    config.write_text(to_yaml(tone_run.recipe).replace("conv_kernel", "conv_kernal"))
    suggestion = r"typo.yaml:\d+: model.encoder.conv_kernal: unknown key; did you mean conv_kernel\?"
    with pytest.raises(ValueError, match=suggestion):
        train(config=config)
    with pytest.raises(ValueError, match=r"training.max_step: unknown key; did you mean max_steps\?"):
        train("training.max_step=2")
    assert not (tmp_path / "exp").exists(), "nothing was made"


def test_missing_units_and_cmvn(train, tmp_path):
    with pytest.raises(OSError, match="gone"):
        train(f"tokenizer.units={tmp_path / 'gone'}")
    for key, command in (("data.cmvn", "tools/data/compute_cmvn_stats.py"), ("training.dev_ctm", "wenet-fusion align")):
        with pytest.raises(FileNotFoundError, match=f"{key}: there is no file .*gone; write it with {command}, or "):
            train(f"{key}={tmp_path / 'gone'}")
    (tmp_path / "cmvn").write_text('{"mean_stat": [1.0], "var_stat": [1.0], "frame_num": 10}')
    with pytest.raises(ValueError, match="cmvn has 1 mel bins over 10 frames, the model has 40: run tools/"):
        train(f"data.cmvn={tmp_path / 'cmvn'}")


@pytest.mark.parametrize("below", [".", "below"])
def test_a_file_in_the_place_of_a_folder_is_named(train, tone_run, tmp_path, below):
    (tmp_path / "exp").write_text("")
    with pytest.raises(NotADirectoryError, match="--model_dir .*exp: .*exp is a file; give a folder"):
        train()
    folder = tmp_path / "exp" / below
    with pytest.raises(NotADirectoryError, match="--result_dir .*exp.*: .*exp.* is a file; give a folder"):
        run("evaluate", "--checkpoint", tone_run.checkpoint, "--data", tone_run.dev_list, "--result_dir", folder)
    assert (tmp_path / "exp").is_file()


def test_a_run_with_another_vocabulary_is_not_continued(train, tmp_path):
    train()
    (tmp_path / "units.txt").write_text("<blank> 0\n<unk> 1\n<sos/eos> 2\none 3\ntwo 4\nthree 5\n")
    with pytest.raises(
        ValueError, match="was trained with a vocabulary of 13 tokens that differ from the 6 of this run"
    ):
        train(f"tokenizer.units={tmp_path / 'units.txt'}")


def test_unknown_devices(train):
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"--device {name} cannot be used here .*; give cpu or auto"):
            train("--device", name)


def test_files_that_are_not_models_are_refused(tone_run, tmp_path):
    wav = tone_run.dev_list.with_name("u000.wav")
    exported = tmp_path / "tones.pt"
    run("export", tone_run.checkpoint, exported)
    for arguments, message in (
        (("evaluate", "--checkpoint", exported, "--data", "x", "--result_dir", tmp_path), "is an exported model"),
        (("export", wav, tmp_path / "x.pt"), "u000.wav cannot be read: .*give a model checkpoint"),
        (("check", "model", tone_run.model_dir / "training_state.pt"), "'wenet_fusion.training_state'; give a model"),
        (("inspect", tmp_path / "gone.pt"), "gone.pt does not exist; give a model checkpoint"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            run(*arguments)
    with pytest.raises(ValueError, match="step_000100.pt: is a training checkpoint; export it first"):
        Recognizer(tone_run.checkpoint)


# ---- as a user sees it


def test_errors_end_the_command_with_one_line_and_status_1(tone_run, tmp_path):
    result = command(
        "train",
        "--config",
        tone_run.config,
        "--train_data",
        "gone.list",
        "--dev_data",
        "gone.list",
        "--model_dir",
        tmp_path / "exp",
        cwd=tmp_path,
    )
    assert (result.returncode, result.stdout) == (1, "")
    remedy = "write it with tools/data/make_raw_list.py or tools/data/make_shard_list.py"
    assert result.stderr == f"error: gone.list: there is no such list; {remedy}\n"

    result = command("evaluate", "--checkpoint", ".", "--data", "x", "--result_dir", "r", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "") and not (tmp_path / "r").exists()
    assert result.stderr.startswith("error: . is a directory; give a model checkpoint")


def test_text_without_audio_is_refused_by_the_list_maker(tone_run, tmp_path):
    folder = tone_run.train_list.parent
    (tmp_path / "text").write_text((folder / "text").read_text() + "u999 one two\n")
    maker = [sys.executable, TOOLS / "data" / "make_raw_list.py"]
    arguments = [folder / "wav.scp", tmp_path / "text", tmp_path / "data.list"]
    result = subprocess.run([*maker, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and not (tmp_path / "data.list").exists()
    assert result.stderr.startswith("error: 1 utterances cannot be listed") and "u999: has no audio" in result.stderr
