"""The emission delay of words, as an evaluation reports it."""

import json

import numpy as np
import pytest
from support.model.tones import RATE
from wenet_fusion_runtime import DecodingOptions
from wenet_fusion_runtime.search.modes import GREEDY
from wenet_fusion_runtime.stream.offline import transcribe_offline

from wenet_fusion.cli.__main__ import main
from wenet_fusion.data import sources
from wenet_fusion.data.lists.manifest import read_manifest
from wenet_fusion.evaluation.options import ATTENTION
from wenet_fusion.evaluation.results import read_results
from wenet_fusion.scoring.ctm import read_ctm
from wenet_fusion.scoring.timestamp_errors import match_all_words
from wenet_fusion.trained_model import acoustic_model, load_trained


def test_emission_delays_of_words_are_reported(tone_run, tmp_path, capsys):
    """Percentiles of the ends of correct words, as export and the tools measure them, also from a resumed run."""
    ctm = tone_run.dev_list.with_name("words.ctm")
    arguments = [
        "evaluate",
        "--checkpoint",
        tone_run.checkpoint,
        "--data",
        tone_run.dev_list,
        "--chunkings",
        "full",
        "8/2",
    ]
    arguments += ["--modes", GREEDY, ATTENTION, "--ctm", ctm, "--result_dir", tmp_path]
    assert main(list(map(str, arguments))) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    trained = load_trained(tone_run.checkpoint)
    model, spoken = acoustic_model(trained), read_ctm(ctm)
    found = {}
    for utterance in read_manifest(tone_run.dev_list):
        segments = transcribe_offline(model, sources.read_samples(utterance, RATE), 8, 2, DecodingOptions(GREEDY))
        found[utterance.key] = [word for segment in segments for word in segment.words]
    delays = [pair.recognised.end_seconds - pair.reference.end_seconds for pair in match_all_words(spoken, found)]
    assert rows[1]["emission_delay_ms"] == {
        "words": len(delays),
        **{f"p{point}": pytest.approx(1000 * np.percentile(delays, point), abs=0.06) for point in (50, 90, 95)},
    }
    assert len(delays) > 20 and rows[1]["emission_delay_ms"]["p50"] < rows[1]["emission_delay_ms"]["p90"]
    assert [row["emission_delay_ms"] is None for row in rows] == [False, False, True, True], "attention has no times"
    shown = " / ".join(f"{rows[1]['emission_delay_ms'][point]:.0f}" for point in ("p50", "p90", "p95"))
    assert f"  {shown}\n" in capsys.readouterr().out and f"| {shown} |" in (tmp_path / "report.md").read_text()
    evaluation = read_results(tmp_path)
    assert [item.delay is None for item in evaluation.found] == [False, False, True, True]
    (tmp_path / "foreign.ctm").write_text("x 1 0.0 1.0 one\n")
    with pytest.raises(ValueError, match="foreign.ctm: belongs to other utterances"):
        main([*map(str, arguments), "--ctm", str(tmp_path / "foreign.ctm")])
