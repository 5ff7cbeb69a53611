"""Timestamp errors and emission delay: matched words, measurement with an exported file, tables of the tools."""

import json
import math

import measure_timestamps
import numpy as np
import pytest
import reliability
from support.recipes.scripts import run
from support.runtime.fake_model import FRAME, SAMPLE_RATE, make_model, speak
from wenet_fusion_runtime.model.model_file import read_meta
from wenet_fusion_runtime.results.formats import ctm_lines
from wenet_fusion_runtime.results.result import Word
from wenet_fusion_runtime.results.timestamps import EmissionDelay

from wenet_fusion.export.emission_delay import measure_emission_delay
from wenet_fusion.export.speech import Speech, read_speech
from wenet_fusion.scoring.timestamp_errors import (
    corrected,
    estimate_emission_delay,
    match_all_words,
    match_words,
    timestamp_errors,
)

SECONDS = FRAME / SAMPLE_RATE


def words(*items: tuple[str, float, float]) -> list[Word]:
    return [Word(text, start, end, 0.9) for text, start, end in items]


SPOKEN = words(("a", 0.0, 0.5), ("b", 1.0, 1.4), ("a", 2.0, 2.5), ("c", 3.0, 3.5))
HEARD = words(("a", 0.3, 0.4), ("x", 0.9, 1.3), ("a", 2.4, 2.5), ("d", 2.7, 2.8), ("c", 3.2, 3.8))


def test_only_words_that_are_right_are_paired() -> None:
    assert match_words(SPOKEN, HEARD) == [(SPOKEN[0], HEARD[0]), (SPOKEN[2], HEARD[2]), (SPOKEN[3], HEARD[4])]
    assert match_words(SPOKEN, []) == match_words([], HEARD) == []
    assert len(match_all_words({"u": SPOKEN, "v": SPOKEN}, {"v": HEARD, "w": HEARD})) == 3


def test_errors_and_the_shifts_that_mend_them() -> None:
    pairs = match_words(SPOKEN, HEARD)
    errors = timestamp_errors(pairs)
    assert errors.words == 3
    assert errors.starts == pytest.approx((0.3, 0.3, np.percentile([0.2, 0.3, 0.4], 95), 0.3))
    assert errors.ends == pytest.approx(((0.1 + 0.0 + 0.3) / 3, 0.1, np.percentile([0.0, 0.1, 0.3], 95), 0.0))
    shifts = estimate_emission_delay(pairs)
    assert shifts == pytest.approx((-0.3, 0.0))
    after = timestamp_errors([corrected(pair, shifts) for pair in pairs])
    assert after.starts.mean == pytest.approx(0.2 / 3) and after.starts.bias == pytest.approx(0)
    with pytest.raises(ValueError, match="no word was recognised correctly"):
        timestamp_errors([])


# ---- at export


def speech_with_times(text: str, frames: int, gap: int) -> Speech:
    """A recording of the fake model's language, in which a word is emitted in its first frame."""
    letters = text.replace(" ", "")
    spans = [(gap + n * (frames + gap), gap + n * (frames + gap) + frames) for n in range(len(letters))]
    spoken = tuple(Word(letter, start * SECONDS, end * SECONDS, 1.0) for letter, (start, end) in zip(letters, spans))
    return Speech(text, speak(letters, frames, gap), text, spoken)


def test_export_measures_the_medians_over_all_chunk_sizes() -> None:
    speech = [speech_with_times("a b", 3, 4), speech_with_times("c d a", 3, 5), Speech("silence", speak("  "), "")]
    found = measure_emission_delay(make_model(), speech)
    assert found.emission_delay == pytest.approx((0.0, 2 * SECONDS), abs=1e-3), (
        "a word of three frames is emitted in its first frame"
    )
    assert found.before.words == 10 and found.spread_seconds == 0
    assert found.before.ends.bias == pytest.approx(-2 * SECONDS) and found.after.ends.mean < 1e-6
    assert json.loads(json.dumps(found.summary()))["ends_after"]["mean"] < 1e-6


def test_utterances_to_export_with_are_spread_over_the_list(tone_run) -> None:
    ctm = tone_run.dev_list.with_name("words.ctm")
    found = read_speech(tone_run.dev_list, 8000, 4, ctm)
    assert [item.key for item in found] == ["u000", "u007", "u015", "u022"]
    assert all(" ".join(word.text for word in item.timestamps) == item.text for item in found)
    assert len(read_speech(tone_run.dev_list, 8000, 1000)) == 30


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_the_file_knows_its_word_times(tone_run, tmp_path, capsys, form) -> None:
    data = ("--data", tone_run.dev_list, "--num_utterances", 10, "--format", form)
    assert run("export", tone_run.checkpoint, tmp_path / "plain", *data) == 0
    assert (
        read_meta(tmp_path / "plain").emission_delay == EmissionDelay() and "timestamps:" not in capsys.readouterr().out
    )
    assert (
        run("export", tone_run.checkpoint, tmp_path / "timed", *data, "--ctm", tone_run.dev_list.with_name("words.ctm"))
        == 0
    )
    meta, out = read_meta(tmp_path / "timed"), capsys.readouterr().out
    shift = meta.emission_delay.start_shift_seconds
    assert -0.25 < shift < -0.02 and f"starts move by {shift:+.3f} s" in out
    assert meta.verification["word_times"]["starts_after"]["mean"] < 0.04


def test_a_ctm_file_that_does_not_belong_to_the_data_is_refused(tone_run, tmp_path) -> None:
    good = tone_run.dev_list.with_name("words.ctm").read_text()
    (tmp_path / "part.ctm").write_text(
        "".join(line for line in good.splitlines(keepends=True) if not line.startswith("u003"))
    )
    (tmp_path / "foreign.ctm").write_text("x 1 0.0 1.0 one\n")
    (tmp_path / "empty.ctm").write_text("")
    arguments = ("export", tone_run.checkpoint, tmp_path / "out.pt", "--ctm")
    for name, message in (
        ("part", "part.ctm: lacks the words of 1 utterances of .*, such as u003"),
        ("foreign", "foreign.ctm: belongs to other utterances: its first is x"),
        ("empty", "empty.ctm: holds no word"),
    ):
        with pytest.raises(ValueError, match=message):
            run(*arguments, tmp_path / f"{name}.ctm", "--data", tone_run.dev_list)
    with pytest.raises(ValueError, match="part.ctm: give the data.list that it belongs to with --data"):
        run(*arguments, tmp_path / "part.ctm")
    with pytest.raises(ValueError, match="--ctm is for torchscript and onnx: a sherpa-onnx file has no place"):
        run(
            *arguments, tone_run.dev_list.with_name("words.ctm"), "--data", tone_run.dev_list, "--format", "sherpa-onnx"
        )
    assert not (tmp_path / "out.pt").exists()


def test_a_model_that_recognises_nothing_is_exported_without_word_times(tone_run, tmp_path, capsys) -> None:
    text = tone_run.dev_list.with_name("words.ctm").read_text()
    (tmp_path / "deaf.ctm").write_text(text.replace("one", "four").replace("two", "four").replace("three", "four"))
    data = ("--data", tone_run.dev_list, "--ctm", tmp_path / "deaf.ctm", "--num_utterances", 3)
    assert run("export", tone_run.checkpoint, tmp_path / "out.pt", *data) == 0
    assert "timestamps: no word of the speech was recognised correctly" in capsys.readouterr().out
    assert read_meta(tmp_path / "out.pt").emission_delay == EmissionDelay()


# ---- tools


def test_the_table_of_errors(tmp_path, capsys) -> None:
    paths = [tmp_path / name for name in ("spoken.ctm", "heard.ctm", "perfect.ctm", "foreign.ctm")]
    for path, items in zip(paths, (SPOKEN, HEARD, SPOKEN, SPOKEN)):
        path.write_text(ctm_lines("x" if path.stem == "foreign" else "u", items))
    assert measure_timestamps.main([*map(str, paths[:3]), "--output", str(tmp_path / "errors.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| error in ms | of 4 words | starts: mean |")
    assert lines[2] == f"| {paths[1]} | 3 | 300 | 300 | 390 | 300 | 133 | 100 | 280 | 0 |"
    assert lines[3] == f"| {paths[2]} | 4 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |"
    assert json.loads((tmp_path / "errors.json").read_text())[str(paths[1])]["starts"]["bias"] == pytest.approx(0.3)
    with pytest.raises(ValueError, match="foreign.ctm: belongs to other utterances"):
        measure_timestamps.main([str(paths[0]), str(paths[3])])


def test_reliability_by_hand() -> None:
    confidences = np.array([0.95, 1.0, 0.91, 0.55, 0.5, 0.05])
    right = np.array([True, True, False, True, False, False])
    found = reliability.reliability(confidences, right, 10)
    assert (found.words, found.wrong, found.right) == (6, 3, 0.5)
    assert [item.words for item in found.bins] == [1, 0, 0, 0, 0, 2, 0, 0, 0, 3]
    best = found.bins[-1]
    assert (best.confidence, best.right) == pytest.approx((2.86 / 3, 2 / 3)) and math.isnan(found.bins[1].right)
    assert (best.right_low, best.right_high) == pytest.approx((0.2077, 0.9385), abs=1e-4), "Wilson's interval of 2 in 3"
    expected = (3 * abs(2.86 / 3 - 2 / 3) + 2 * abs(0.525 - 0.5) + 1 * 0.05) / 6
    assert found.expected_calibration_error == pytest.approx(expected)


def test_reliability_of_a_file(tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "text").write_text("u a b a c\nsilent d\n")
    (tmp_path / "heard.ctm").write_text(ctm_lines("u", HEARD))
    arguments = [str(tmp_path / "text"), str(tmp_path / "heard.ctm")]
    assert reliability.main([*arguments, "--output", str(tmp_path / "plot.png")]) == 0
    assert (
        "5 words, 2 wrong; mean confidence 0.9000, right 0.6000, expected calibration error 0.3000"
        in capsys.readouterr().out
    )
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "plot.json").read_text())
    assert written["wrong"] == 2 and len(written["bins"]) == 1
    (tmp_path / "empty.ctm").write_text("")
    assert reliability.main([arguments[0], str(tmp_path / "empty.ctm")]) == 0
    assert "no word was recognised" in capsys.readouterr().out
    (tmp_path / "text").write_text("other a\n")
    with pytest.raises(ValueError, match="heard.ctm: belongs to other utterances"):
        reliability.main(arguments)
    with pytest.raises(ValueError, match="--bins 0"):
        reliability.main([*arguments, "--bins", "0"])


def test_an_interval_holds_its_share_whatever_the_number_of_words() -> None:
    for count in range(1, 2000):
        for right in (np.ones(count, bool), np.zeros(count, bool)):
            (found,) = reliability.reliability(np.ones(count), right, bins=1).bins
            assert found.right_low <= found.right <= found.right_high, count
