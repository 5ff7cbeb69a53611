"""The command wenet-fusion on unusable data: a few skipped utterances are listed, too many are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.model.tones import write_corpus
from support.recipes.scripts import run

from wenet_fusion.training.state.run_files import RunFiles


@pytest.fixture
def flawed(tmp_path):
    """Return a corpus of 20 with four unusable utterances, and the words of the reasons."""
    data_list = write_corpus(tmp_path / "data", 20, seed=3)
    folder = data_list.parent
    (folder / "u001.wav").write_bytes(b"RIFF, but no wave file")
    (folder / "u002.wav").write_bytes(b"")
    lines = [json.loads(line) for line in data_list.read_text().splitlines()]
    lines[3]["txt"] = "one fourteen"
    lines[4]["txt"] = " ".join(["one"] * 60)
    data_list.write_text("".join(json.dumps(line) + "\n" for line in lines))
    reasons = {
        "u001": "u001.wav: cannot be read as audio",
        "u002": "u002.wav: is an empty file",
        "u003": "'fourteen' in 'one fourteen' is not in the vocabulary",
        "u004": "are too few for the 119 that its 60 tokens need",
    }
    return data_list, reasons


def test_check_data_lists_what_cannot_be_used(tone_run, flawed, tmp_path, capsys):
    data_list, reasons = flawed
    output, picture = tmp_path / "new" / "unusable.txt", tmp_path / "pictures" / "a.png"
    written = ("--output", output, "--png", picture)
    assert run("check", "data", data_list, "--config", tone_run.config, *written) == 1
    captured = capsys.readouterr()
    assert "16 utterances" in captured.out and "4 unusable" in captured.out
    lines = [line for line in captured.err.splitlines() if not line.startswith("note: ")]
    for (key, reason), line in zip(reasons.items(), lines, strict=True):
        number = int(key[1:]) + 1
        assert line.startswith(f"skipped {data_list}:{number}: {key}: ") and reason in line
    assert output.read_text().splitlines() == [line.removeprefix("skipped ") for line in lines]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_training_skips_a_few_and_says_so(train, flawed, capsys):
    data_list, reasons = flawed
    assert train("data.max_skipped=0.2", train_list=data_list) == 0
    captured = capsys.readouterr()
    assert "training: 16 utterances" in captured.out and "4 skipped" in captured.out
    assert captured.out.endswith("4 utterances skipped\n")
    assert all(f": {key}: " in captured.err and reason in captured.err for key, reason in reasons.items())


def test_damaged_audio_is_reported_at_once(train, tone_run, tmp_path, capsys, monkeypatch):
    """A run may take days or be killed, so the message must not wait for its end."""
    (tmp_path / "empty.wav").write_bytes(b"")
    lines = tone_run.train_list.read_text().splitlines()[:5]
    lines.append(json.dumps({"key": "broken", "wav": str(tmp_path / "empty.wav"), "txt": "one", "duration": 1.0}))
    data_list = tone_run.train_list.with_name("one_broken.list")
    data_list.write_text("\n".join(lines) + "\n")

    def full(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(RunFiles, "save_state", full)
    with pytest.raises(OSError, match="the disk is full"):
        train("training.max_batch_rows=50", "data.max_skipped=0.2", train_list=data_list)
    assert "one_broken.list:6: broken: " in capsys.readouterr().err


def test_audio_damaged_during_training_is_reported_once(train, tone_run, tmp_path, capsys):
    (tmp_path / "half.flac").write_bytes(half_a_flac(tmp_path / "whole.flac"))
    lists = {}
    for name, data_list in (("train", tone_run.train_list), ("dev", tone_run.dev_list)):
        lines = data_list.read_text().splitlines()[:20]
        for key, content in ((f"{name}-early", "empty.wav"), (f"{name}-late", "half.flac")):
            lines.append(json.dumps({"key": key, "wav": str(tmp_path / content), "txt": "one", "duration": 1.0}))
        lists[name] = data_list.with_name("some_broken.list")
        lists[name].write_text("\n".join(lines) + "\n")
    (tmp_path / "empty.wav").write_bytes(b"")
    changes = ("training.max_batch_rows=50", "data.max_skipped=0.2")
    assert train(*changes, train_list=lists["train"], dev_list=lists["dev"]) == 0
    captured = capsys.readouterr()
    keys = ["train-early", "train-late", "dev-early", "dev-late"]  # durations are trusted, so all come late
    assert [line.split(": ")[1] for line in captured.err.splitlines() if line.startswith("skipped")] == keys
    assert captured.out.endswith("4 utterances skipped\n")
    run(
        "average",
        "--model_dir",
        tmp_path / "exp",
        "--num",
        1,
        "--train_data",
        lists["train"],
        "--dev_data",
        lists["dev"],
        "--output",
        tmp_path / "avg.pt",
    )
    told = capsys.readouterr().err
    assert all(f": {key}: " in told for key in keys)


def half_a_flac(path):
    """Return FLAC bytes with a readable header and damaged audio."""
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 8000)
    return path.read_bytes()[: path.stat().st_size // 2]


def test_training_refuses_many(train, flawed):
    data_list, reasons = flawed
    with pytest.raises(ValueError) as caught:
        train(train_list=data_list)
    message = str(caught.value)
    assert message.startswith("4 of 20 utterances cannot be used:")
    assert "more than 1 % is too many: mend them" in message and all(reason in message for reason in reasons.values())


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "there is no such list; write it with tools/data/make_raw_list.py"),
        ("", "lists no utterances"),
        ('{"key": "a", "wav": "gone.wav", "txt": "one"}\n', "data.list:1: there is no audio file .*gone.wav"),
        ("shard.tar\n", "is this a list of shards.* set data.data_type=shard"),
    ],
)
def test_files_that_are_not_lists_are_refused(train, tmp_path, content, message):
    data_list = tmp_path / "data.list"
    if content is not None:
        data_list.write_text(content)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        train(train_list=data_list)
    assert str(data_list) in str(caught.value)


def test_a_missing_list_of_lhotse_is_written_by_lhotse(train: Callable[..., int], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cuts.jsonl.gz: there is no such list; write it with lhotse"):
        train(train_list=tmp_path / "cuts.jsonl.gz")


@pytest.mark.parametrize("has", [True, False])
def test_half_precision_without_instructions_for_it_is_reported(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, has: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has, "avx2": True})
    note = (
        "note: updates in bfloat16 may take many times longer on this processor than in float32; "
        "set training.precision=float32"
    )
    assert train("training.max_steps=1", "training.precision=bfloat16") == 0
    assert (note in capsys.readouterr().err.splitlines()) is not has
