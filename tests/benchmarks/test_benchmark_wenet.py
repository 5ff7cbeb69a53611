"""The benchmark of WeNet's formats: every file is timed, and ratios compare the same weights."""

import json
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
pytest.importorskip("kaldi_native_fbank", reason="WeNet's files need kaldi-native-fbank, an optional extra")
import wenet_speed


@pytest.mark.slow
def test_every_format_is_timed_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wenet_speed.main(["--quick", "--timed", "1", "--output", str(tmp_path)]) == 0
    text, record = capsys.readouterr().out, json.loads((tmp_path / "wenet_speed.json").read_text())
    assert (tmp_path / "wenet_speed.md").read_text() == text
    (times,) = record["times"].values()
    assert set(times) == {name for pair in wenet_speed.PAIRS for name in pair}
    for ours, theirs in wenet_speed.PAIRS:
        assert f"{times[theirs]['median'] / times[ours]['median']:.2f} x |" in text
