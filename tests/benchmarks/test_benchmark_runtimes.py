"""The benchmark of WeNet's runtimes and sherpa-onnx: with padded audio they give the text of our runtime."""

import json
import sys
from pathlib import Path

import pytest
from support.model.tones import ToneRun

pytest.importorskip("onnxruntime", reason="the benchmark needs onnxruntime, an optional extra")
pytest.importorskip("sherpa_onnx", reason="the benchmark needs sherpa_onnx: pip install sherpa-onnx")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float32")]
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import other_runtimes  # noqa: E402


def test_error_rates_are_those_of_the_decoded_texts(
    tone_run: ToneRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [tone_run.checkpoint, "--data", tone_run.dev_list, "--num_utterances", 12, "--output", tmp_path]
    assert other_runtimes.main(list(map(str, arguments))) == 0
    text = (tmp_path / "other_runtimes.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text and "12 utterances, chunking 8/2" in text
    outcomes = [
        other_runtimes.Outcome(**outcome)
        for outcome in json.loads((tmp_path / "other_runtimes.json").read_text())["outcomes"]
    ]
    ours = outcomes[0]
    assert ours.greedy < 0.2 and ours.other_text == 0
    for item in outcomes:
        if "in front" in item.audio and "int8" not in item.runtime:
            assert (item.other_text, item.greedy) == (0, ours.greedy)
            assert item.rescored == (None if "sherpa" in item.runtime else ours.rescored)
    (cut,) = (item for item in outcomes if (item.runtime, item.audio) == ("sherpa-onnx, float32", "unchanged"))
    assert cut.other_text > 0 and cut.greedy > ours.greedy, "without right padding the last words are missing"
