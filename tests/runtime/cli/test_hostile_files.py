"""Given a path to any kind of file, every command ends with one line that names the path, without a traceback."""

import os
import sys
from pathlib import Path

import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, save_model, speak
from support.runtime.hostile_files import write_hostile_files
from wenet_fusion_runtime.cli.__main__ import main


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a recording."""
    folder = tmp_path_factory.mktemp("good")
    save_model(folder / "model.pt")
    soundfile.write(folder / "speech.wav", speak("abc"), SAMPLE_RATE)
    return folder


COMMANDS = {
    "model of info": "info {}",
    "model of transcribe": "transcribe {} speech.wav",
    "model of serve": "serve {} --port 0",
    "model of mic": "mic {} --input -",
    "recording": "transcribe model.pt {}",
    "hot words": "transcribe model.pt speech.wav --mode ctc_prefix_beam_search --hot_words {}",
    "language model": "transcribe model.pt speech.wav --mode ctc_prefix_beam_search --language_model {}",
    "saved audio": "mic model.pt --input - --save {}.wav/talk.wav",
}
USABLE = {"hot words": {"empty", "zeros", "null", "list", "text", "deep", "deep_objects", "entry"}}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_path_to_any_other_file_gives_one_line(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(good)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115  # pytest's own has no descriptor
    for path in write_hostile_files(tmp_path):
        status = main([part.format(path) for part in COMMANDS[name].split()])
        err = capsys.readouterr().err
        if path.name in USABLE.get(name, ()):  # each line is a phrase; phrases that cannot be spelled are listed
            assert "Traceback" not in err
            continue
        assert status == 1 and err.startswith("error: ") and err.count("\n") == 1 and len(err) < 800, (path.name, err)
        assert path.name in err, err


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e308", "1e400", "9" * 30, "9" * 5000, "-1", "0"])
def test_numbers_out_of_range_give_one_line(good: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    options = (
        "chunk left commit_seconds beam_size ctc_weight reverse_weight blank_penalty length_penalty token_threshold "
        "blank_skip_threshold rule1_seconds rule2_seconds rule3_seconds rule3_silence_seconds rule3_extra_seconds "
        "silence_probability"
    )
    for option in options.split():
        command = ["transcribe", str(good / "model.pt"), str(good / "speech.wav"), "--allow_untrained"]
        try:
            status = main([*command, f"--{option}={value}"])
        except SystemExit as error:  # argparse's own check
            status = error.code
        err = capsys.readouterr().err
        assert status in (0, 1, 2) and "Traceback" not in err, (option, err)
        if status == 1:
            assert err.startswith("error: ") and err.count("\n") == 1, (option, err)
