"""The digits recipe's summary has error rates, streaming latencies and unstable partial words."""

import json

import pytest
import summary
from test_report import STREAM


@pytest.fixture
def folder(tmp_path):
    """Write the files of the earlier stages that the summary reads."""
    files = {
        "results/results.json": {
            "rows": [
                {"mode": "ctc_greedy_search", "variant": "plain", "chunking": "16/4", "wer": 0.0113, "words": 1597}
            ]
        },
        "stream.16-4/stream.json": {**STREAM, "different": ["x"], "same_tokens": 4, "compared": 5},
        "silence.16-4/stream.json": {
            "utterances": 20, "audio_seconds": 336.0, "chunking": "16/4", "insertions": 2, "utterances_wrong": 1
        },
        "align/word_times.json": {
            "words.ctm": {"words": 9, "starts": {"mean": 0.04, "p95": 0.1}, "ends": {"mean": 0.07, "p95": 0.2}}
        },
        "source.json": {
            "kind": "recorded", "files": 3, "speakers": ["a"], "sample_rate": 8000, "origin": "here",
            "sha256": "0123456789abcdef"
        },
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "insertions.txt").write_text("| tone | 0 |\nm.zip: insertions per hour: tone 0\n")
    (tmp_path / ".stage4.seconds").write_text("331\n")
    return tmp_path


def summarise(folder):
    arguments = ["--dir", folder, "--source", folder / "source.json", "--seed", 0, "--running_seconds", 5]
    return summary.main([*map(str, arguments), "--stage_seconds", str(folder / ".stage4.seconds")])


def test_streaming_stands_beside_the_error_rates(folder):
    with pytest.raises(ValueError, match="the tokens of offline evaluation only for 4 of 5 at 16/4 utterances"):
        summarise(folder)
    lines = (folder / "summary.md").read_text().splitlines()
    assert "| ctc_greedy_search | 1.13 |" in lines
    assert "| unstable partial words, per 100 final words | 1.23 |" in lines
    assert "| computation per chunk | 1.0 / 2.0 / 3.0 ms |" in lines
    assert "| first word's start to first text | 0.50 / 0.60 / 0.70 s |" in lines
    assert "- insertions per hour: tone 0" in lines
    assert any("5.6 min of silence" in line and line.endswith("2 words in 1 of them") for line in lines)
    assert "- seconds of each stage when it last ran: 4: 331, 7: 5; 336 in all" in lines


def test_the_same_tokens_as_offline_end_it_well(folder):
    stream = folder / "stream.16-4/stream.json"
    stream.write_text(json.dumps({**json.loads(stream.read_text()), "different": []}))
    assert summarise(folder) == 0
    (folder / "source.json").write_text("{")
    with pytest.raises(ValueError, match=r"source.json: not JSON .*; run the stage that writes it again"):
        summarise(folder)
