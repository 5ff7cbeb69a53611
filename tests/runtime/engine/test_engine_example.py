"""The example of docs/engine.md runs."""

import re
from pathlib import Path

import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak

PAGE = Path(__file__).parents[3] / "docs" / "engine.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.+?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    save_archive(tmp_path / "final.zip")
    soundfile.write(tmp_path / "recording.wav", speak("abcd"), SAMPLE_RATE)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == "a b c d\n"
