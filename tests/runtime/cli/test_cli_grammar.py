"""The arguments --grammar and --grammar_threshold."""

import json
from pathlib import Path

import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, save_model, speak
from wenet_fusion_runtime.cli.__main__ import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grammar")
    save_model(path / "model.pt")
    soundfile.write(path / "inside.wav", speak("a c d"), SAMPLE_RATE)
    soundfile.write(path / "outside.wav", speak("a b d"), SAMPLE_RATE)
    (path / "list.txt").write_text("# commands\na c d\nd\n", encoding="utf-8")
    (path / "rules.jsgf").write_text("#JSGF V1.0;\npublic <s> = a c <d>;\n<d> = d+;\n", encoding="utf-8")
    (path / "bad.jsgf").write_text("#JSGF V1.0;\npublic <s> = a c <d>;\n", encoding="utf-8")
    (path / "foreign.txt").write_text("a c\nA\n", encoding="utf-8")
    return path


def transcribe(folder: Path, *arguments: str) -> int:
    files = [str(folder / name) for name in ("inside.wav", "outside.wav")]
    return main(["transcribe", str(folder / "model.pt"), *files, *arguments])


@pytest.mark.parametrize("name", ["list.txt", "rules.jsgf"])
def test_only_sentences_of_the_grammar_are_written(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert transcribe(folder, "--grammar", str(folder / name)) == 0
    assert [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()] == ["a c d", ""]


def test_the_threshold_and_the_gap(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--grammar", str(folder / "list.txt"), "--format", "json", "--nbest", "2", "--token_threshold", "inf"]
    assert transcribe(folder, *arguments, "--grammar_threshold", "inf") == 0
    inside, outside = map(json.loads, capsys.readouterr().out.splitlines())
    assert (inside["text"], outside["text"]) == ("a c d", "a c d")
    assert "grammar_gap" not in inside["hypotheses"][0] or inside["hypotheses"][0]["grammar_gap"] < 0.1
    gap, confidences = outside["hypotheses"][0]["grammar_gap"], [word["confidence"] for word in outside["words"]]
    assert gap > 1.0 and max(confidences) < 0.4
    assert transcribe(folder, *arguments, "--grammar_threshold", f"{gap - 0.01}") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[1])["text"] == ""


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--grammar {}/bad.jsgf", "bad.jsgf:2: rule <d> is not defined; define it, or correct its name: <s>"),
        (
            "--grammar {}/foreign.txt",
            "foreign.txt:2: the model cannot spell 'A': no token is 'A', but there are tokens",
        ),
        ("--grammar {}/missing.txt", "missing.txt"),
        ("--grammar_threshold 2", "--grammar_threshold has no effect without --grammar FILE"),
        ("--grammar {}/list.txt --grammar_threshold 0", "grammar_threshold must be positive"),
        ("--grammar {}/list.txt --mode ctc_greedy_search", "so grammars have no effect"),
    ],
)
def test_errors(folder: Path, arguments: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        transcribe(folder, *arguments.format(folder).split(), "--traceback")
    assert message in str(caught.value)
