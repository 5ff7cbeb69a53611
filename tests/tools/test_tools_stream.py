"""tools/measure/measure_streaming.py and the pictures: the displayed text and its times."""

import json
from pathlib import Path

import measure_streaming
import numpy as np
import pytest
import soundfile
from plot_training import main as plot_training
from plot_training import read_log, smooth
from streamed_recording import changed_words, cut_randomly, settled_times, stream_utterance
from support.runtime.fake_model import FRAME, SAMPLE_RATE, save_model, speak
from wenet_fusion_runtime import Recognizer, Word

from wenet_fusion.data.lists.kaldi import read_table
from wenet_fusion.scoring.ctm import read_ctm

TEXTS = {"one": "a b c", "two": "d", "three": "", "four": "b a d c a"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model that reads loudness as words."""
    return save_model(tmp_path_factory.mktemp("model") / "model.zip")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.list and words.ctm of TEXTS."""
    folder = tmp_path_factory.mktemp("spoken")
    ctm, records = [], []
    for key, text in TEXTS.items():
        letters = text.replace(" ", "")
        soundfile.write(folder / f"{key}.wav", speak(letters), SAMPLE_RATE, subtype="FLOAT")
        records.append(json.dumps({"key": key, "wav": f"{key}.wav", "txt": text}))
        for number, letter in enumerate(letters):  # two frames of silence, then three of sound
            ctm.append(f"{key} 1 {(2 + 5 * number) * FRAME / SAMPLE_RATE} {3 * FRAME / SAMPLE_RATE} {letter}")
    (folder / "data.list").write_text("\n".join(records) + "\n")
    (folder / "words.ctm").write_text("\n".join(ctm) + "\n")
    return folder


def stream(model: Path, spoken: Path, output: Path, *options: str) -> dict:
    """Runs the command at chunks of 8 frames with 2 to the left; returns stream.json."""
    fixed = [str(model), str(spoken / "data.list"), "--chunking", "8/2", "--mode", "ctc_greedy_search"]
    assert measure_streaming.main([*fixed, "--output", str(output), *options]) == 0
    return json.loads((output / "stream.json").read_text())


def test_cuts_are_random_and_lose_nothing() -> None:
    samples = np.arange(50_000, dtype=np.float32)
    pieces = cut_randomly(samples, 2560, np.random.default_rng(0))
    assert np.array_equal(np.concatenate(pieces), samples)
    lengths = [len(piece) for piece in pieces]
    assert 1 <= min(lengths) <= 3 and 1500 < max(lengths) <= 2560


def test_a_word_counts_as_shown_from_the_time_at_which_it_stays() -> None:
    partials = [(1.0, ["a"]), (2.0, ["a", "x"]), (3.0, ["b"]), (4.0, ["a", "b"]), (5.0, ["a", "b", "y"])]
    assert settled_times(partials, ["a", "b", "c"], 6.0) == (4.0, 4.0, 6.0)
    assert settled_times([], ["a"], 6.0) == (6.0,)
    assert settled_times(partials, [], 6.0) == ()


def test_unstable_partial_words_are_those_words_that_change_or_vanish() -> None:
    assert changed_words([["a"], ["a", "x"], ["b", "x", "y"], ["b"]]) == 1 + 2
    assert changed_words([["a", "b"]]) == changed_words([]) == changed_words([[], ["a"], ["a", "b"]]) == 0
    assert changed_words([["a", "b", "c"], []]) == 3


def test_shown_times_are_ends_of_chunks_for_any_cut(model: Path) -> None:
    recognizer = Recognizer(model)
    samples = speak("abcabc")
    seen = {stream_utterance(recognizer, samples, 8, 2, np.random.default_rng(seed)).shown for seed in range(4)}
    assert len(seen) == 1
    chunks = np.array(seen.pop()) * SAMPLE_RATE / (8 * FRAME)
    end = len(samples) / (8 * FRAME)
    assert all(number == pytest.approx(round(number)) or number == pytest.approx(end) for number in chunks)


def test_report_of_a_perfect_model(model: Path, spoken: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = stream(model, spoken, tmp_path, "--ctm", str(spoken / "words.ctm"))
    assert (report["wer"], report["words"], report["utterances"], report["utterances_wrong"]) == (0.0, 9, 4, 0)
    assert read_table(tmp_path / "text") == TEXTS
    assert 0 < report["real_time_factor"] < 1
    # A chunk is 0.32 s, so no word waits longer, and no word is shown before half of it is spoken.
    assert -0.12 <= report["emission_delay_seconds"]["p50"] <= report["emission_delay_seconds"]["p99"] <= 0.32
    assert report["first_text_seconds"]["p50"] > 0
    # A word is emitted in its first frame; it has three.
    assert report["timed_words"] == 9 and report["without_times"] == []
    assert report["start_errors_seconds"]["mean"] == pytest.approx(0, abs=1e-3)
    assert report["end_errors_seconds"]["bias"] == pytest.approx(-2 * FRAME / SAMPLE_RATE, abs=1e-3)
    shown = read_ctm(tmp_path / "words.ctm")
    assert {key: [word.text for word in words] for key, words in shown.items()} == {
        key: text.split() for key, text in TEXTS.items() if text
    }
    assert report["compared"] == 0 and report["upwr"] == 0.0 and report["open_words"] == 0.0  # greedy commits at once
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_other_tokens_than_offline_are_reported(model: Path, spoken: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("one 3 4 5\ntwo 6\nthree\nfour 4 3 6 5 3\n")
    report = stream(model, spoken, tmp_path / "same", "--reference_tokens", str(tokens))
    assert (report["compared"], report["same_tokens"], report["different"]) == (4, 4, [])
    tokens.write_text("one 3 4 5\ntwo 5\nthree 3\nfour 4 3 6 5 3\n")
    report = stream(model, spoken, tmp_path / "other", "--reference_tokens", str(tokens))
    assert (report["compared"], report["same_tokens"], report["different"]) == (4, 2, ["two", "three"])
    assert not (tmp_path / "other" / "timeline.png").exists()


def test_unreadable_audio_is_skipped_and_counted(model: Path, spoken: Path, tmp_path: Path) -> None:
    (spoken / "broken.wav").write_bytes(b"RIFF")
    lists = tmp_path / "data.list"
    good = json.dumps({"key": "two", "wav": str(spoken / "two.wav"), "txt": "d"})
    bad = json.dumps({"key": "bad", "wav": str(spoken / "broken.wav"), "txt": "d", "duration": 1.0})
    gone = json.dumps({"key": "gone", "wav": "gone.wav", "txt": "d"})
    lists.write_text(f"{good}\n{bad}\n{gone}\n")
    assert measure_streaming.main([str(model), str(lists), "--chunking", "8/2", "--output", str(tmp_path)]) == 1
    report = json.loads((tmp_path / "stream.json").read_text())
    assert report["utterances"] == 1 and len(report["skipped"]) == 2
    assert "data.list:3: there is no audio file" in report["skipped"][0] and report["skipped"][1].startswith("bad: ")


def test_utterances_without_times_are_counted_and_a_foreign_ctm_is_refused(
    model: Path, spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    lines = (spoken / "words.ctm").read_text().splitlines(keepends=True)
    (tmp_path / "part.ctm").write_text("".join(line for line in lines if not line.startswith("two")))
    arguments = [str(model), str(spoken / "data.list"), "--chunking", "8/2", "--output", str(tmp_path), "--ctm"]
    assert measure_streaming.main([*arguments, str(tmp_path / "part.ctm")]) == 1
    report = json.loads((tmp_path / "stream.json").read_text())
    assert (report["without_times"], report["timed_words"]) == (["two"], 8), "an empty transcript needs no times"
    assert "without times in the CTM file 1:\ntwo" in capsys.readouterr().out
    (tmp_path / "foreign.ctm").write_text("other 1 0.5 0.25 A\n")
    with pytest.raises(ValueError, match="foreign.ctm: belongs to other utterances: its first is other.* such as one"):
        measure_streaming.main([*arguments, str(tmp_path / "foreign.ctm")])


def test_wrong_words_have_no_time() -> None:
    words = [Word("a", 0, 1, 1), Word("b", 1, 2, 1), Word("c", 2, 3, 1)]
    streamed = measure_streaming.Streamed(
        ("a", "x", "y", "c"), (), (), (1.5, 2.5, 3.0, 3.5), 0, (), 1.5, 0, (), 0, 0, 0
    )
    assert measure_streaming.timeline_of("u", words, streamed).shown == (1.5, None, 3.5)


def test_training_curves(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    log = tmp_path / "train_log.jsonl"
    lines = [{"kind": "step", "step": n, "epoch": 0, "loss": 9 / n, "ctc_loss": 8 / n} for n in range(1, 30)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert plot_training([str(log), str(tmp_path / "early.png")]) == 0  # no validation yet
    with log.open("a") as file:
        file.write(json.dumps({"kind": "epoch", "step": 29, "epoch": 0, "dev_loss": 0.5, "dev_wer": 0.0}) + "\n")
    assert plot_training([str(log), str(tmp_path / "late.png")]) == 0
    assert (tmp_path / "late.png").read_bytes().startswith(b"\x89PNG")
    assert "29 steps, 1 validations" in capsys.readouterr().out
    log.write_text("no json\n")
    with pytest.raises(ValueError, match="train_log.jsonl:1: not a line of a training log"):
        read_log(log)
    log.write_text("")
    with pytest.raises(ValueError, match="no training step"):
        read_log(log)


def test_smoothing_ignores_single_bad_batches() -> None:
    values = np.ones(50)
    values[20] = 1000
    assert (smooth(values, 5) == 1).all()


def test_full_context_is_no_chunking_of_a_stream(capsys: pytest.CaptureFixture) -> None:
    for label, message in (
        ("full", "'full' cannot be streamed; give SIZE/LEFT"),
        ("16x4", "neither 'full' nor SIZE/LEFT"),
    ):
        with pytest.raises(SystemExit):
            measure_streaming.main(["model", "data.list", "--output", "out", "--chunking", label])
        assert message in capsys.readouterr().err
