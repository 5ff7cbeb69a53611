"""Forced alignment: equal to brute force, with a known timestamp error, and the same alone and in a batch."""

import copy
import itertools
import json

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.model.tones import RATE, speak
from support.recipes.scripts import run
from wenet_fusion_runtime.model.model_file import read_meta
from wenet_fusion_runtime.results.formats import ctm_lines

from wenet_fusion.data.lists.manifest import read_manifest
from wenet_fusion.evaluation.timestamps import forced_alignment
from wenet_fusion.evaluation.timestamps.forced_alignment import AlignmentOptions, align, best_path
from wenet_fusion.model.chunking import Chunking, parse_chunking
from wenet_fusion.scoring.ctm import read_ctm
from wenet_fusion.scoring.timestamp_errors import match_all_words, timestamp_errors
from wenet_fusion.trained_model import load_trained

UNITS = 4


@pytest.fixture(scope="module")
def model(tone_run):
    return load_trained(tone_run.checkpoint)


@pytest.fixture(scope="module")
def utterances(tone_run):
    return read_manifest(tone_run.dev_list)


@pytest.fixture(scope="module")
def aligned(model, utterances):
    return align(model, utterances)


# ---- one utterance


def brute_force(log_probs, ids):
    """Return the log-probability of the best path that collapses to `ids`, and the frames of each token's run."""
    frames, best = len(log_probs), (-np.inf, [])
    for path in itertools.product({0, *ids}, repeat=frames):
        runs = [(unit, list(run)) for unit, run in itertools.groupby(range(frames), key=path.__getitem__)]
        runs = [(run[0], run[-1] + 1) for unit, run in runs if unit]
        if [path[start] for start, _ in runs] == ids:
            best = max(best, (sum(log_probs[frame, unit] for frame, unit in enumerate(path)), runs))
    return best


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(1, UNITS - 1), max_size=3), frames=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_the_best_path_is_that_of_brute_force(ids, frames, seed):
    generator = torch.Generator().manual_seed(seed)
    log_probs = (3 * torch.randn(frames, UNITS, generator=generator)).log_softmax(1)
    expected, runs = brute_force(log_probs.double().numpy(), ids)
    if expected == -np.inf:
        with pytest.raises(
            ValueError, match=rf"{frames} frames are too few for the \d that its {len(ids)} tokens need"
        ):
            best_path(log_probs, ids)
        return
    found = best_path(log_probs, ids)
    assert found.log_prob == pytest.approx(expected, abs=1e-5)
    assert [(run.start, run.stop) for run in found.runs] == runs
    peaks = [float(log_probs[start:stop, unit].max().exp()) for unit, (start, stop) in zip(ids, runs)]
    assert [run.peak for run in found.runs] == pytest.approx(peaks)


# ---- a list


def test_words_are_those_of_the_transcripts_and_lie_in_the_audio(aligned, utterances):
    assert not aligned.skipped and [item.key for item in aligned.utterances] == [item.key for item in utterances]
    for item, utterance in zip(aligned.utterances, utterances):
        assert " ".join(word.text for word in item.words) == utterance.text
        assert [token.text for token in item.tokens] == utterance.text.split()
        assert item.seconds == pytest.approx(utterance.seconds) and item.score < 0 < item.confidence <= 1
        bounds = [0.0, *(time for word in item.words for time in word[1:3]), item.seconds]
        assert bounds == sorted(bounds)


def test_words_are_where_they_were_spoken(tone_run, model, utterances, aligned, tmp_path):
    """Tokens are emitted within a word; export measured the emission delay on other recordings."""
    spoken = read_ctm(tone_run.dev_list.with_name("words.ctm"))
    raw = timestamp_errors(match_all_words(spoken, {item.key: item.words for item in aligned.utterances}))
    assert 0.02 < raw.starts.bias < 0.25
    train_ctm, exported = tone_run.train_list.with_name("words.ctm"), tmp_path / "tones.pt"
    run("export", tone_run.checkpoint, exported, "--data", tone_run.train_list, "--ctm", train_ctm)
    delay = read_meta(exported).emission_delay
    assert delay.start_shift_seconds == pytest.approx(-raw.starts.bias, abs=0.03)
    for chunking in ("full", "4/4"):
        moved = align(model, utterances, AlignmentOptions(parse_chunking(chunking), delay))
        errors = timestamp_errors(match_all_words(spoken, {item.key: item.words for item in moved.utterances}))
        assert errors.words == sum(map(len, spoken.values()))
        assert errors.starts.mean < 0.03 < raw.starts.mean and errors.ends.mean < 0.03
        assert errors.starts.p95 < 0.08 and errors.ends.p95 < 0.08


def test_an_utterance_alone_is_aligned_as_in_a_batch(model, utterances, aligned):
    for utterance, together in list(zip(utterances, aligned.utterances))[:5]:
        (alone,) = align(model, [utterance]).utterances
        assert ctm_lines("", alone.tokens) == ctm_lines("", together.tokens)
        assert alone.score == pytest.approx(together.score, abs=1e-5)


def test_long_audio_runs_in_blocks(model, utterances, monkeypatch):
    options = AlignmentOptions(Chunking(4, 4))
    whole = align(model, utterances[:4], options)
    monkeypatch.setattr("wenet_fusion_runtime.stream.offline.OFFLINE_BLOCK_FRAMES", 8)
    blocks = align(model, utterances[:4], options)
    for one, other in zip(whole.utterances, blocks.utterances):
        assert ctm_lines("", one.tokens) == ctm_lines("", other.tokens)


def test_full_context_is_not_for_long_audio(model, utterances, monkeypatch):
    monkeypatch.setattr(forced_alignment, "MAX_FULL_CONTEXT_SECONDS", 1.2)
    long = [item.key for item in utterances if item.seconds > 1.2]
    assert 0 < len(long) < len(utterances)
    found = align(model, utterances)
    assert [reason.partition(":")[0] for reason in found.skipped] == long
    assert (
        "s are more than the 1 s that full context allows; align it in chunks, such as --chunking 8/2"
        in found.skipped[0]
    )
    assert not align(model, utterances, AlignmentOptions(Chunking(8, 2))).skipped


def test_a_damaged_model_is_refused(model, utterances):
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.model.ctc.linear.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="the model's output is not a number"):
        align(damaged, utterances[:2])


def test_an_empty_list_is_refused(model):
    with pytest.raises(ValueError, match="^there is no utterance to align: give at least one$"):
        align(model, [])


def test_a_chunking_that_was_not_trained_is_refused_before_any_audio_is_read(model, utterances, monkeypatch):
    monkeypatch.setattr(forced_alignment, "read_batch", None)
    with pytest.raises(ValueError, match="chunk 5 with left context 2: the model was not trained for it"):
        align(model, utterances, AlignmentOptions(Chunking(5, 2)))


# ---- the command


@pytest.fixture
def faulty(tone_run, tmp_path):
    """Four usable recordings, the second with a wrong transcript, the third of noise, and four unusable ones."""
    good = [json.loads(line) for line in tone_run.dev_list.read_text().splitlines()[:4]]
    for item in good:
        item["wav"] = str(tone_run.dev_list.with_name(item["wav"]))
    wrong = {"one": "two", "two": "three", "three": "one"}
    good[1]["txt"] = " ".join(wrong[word] for word in good[1]["txt"].split())
    good[2] = {"key": "a/b%", "wav": "faint.wav", "txt": ""}
    soundfile.write(tmp_path / "faint.wav", speak([], np.random.default_rng(0)), RATE)
    (tmp_path / "noise.wav").write_bytes(b"RIFF")
    bad = [
        good[0] | {"key": "unknown", "txt": "one hundred"},
        good[0] | {"key": "short", "txt": "one one two " * 100},
        {"key": "damaged", "wav": "noise.wav", "txt": "one", "duration": 1.0},
        {"key": "silent", "wav": "none.wav", "txt": "one"},
    ]
    (tmp_path / "data.list").write_text("".join(json.dumps(item) + "\n" for item in [*good, *bad]))
    return tmp_path / "data.list"


def test_utterances_that_cannot_be_aligned_are_listed_and_the_rest_goes_on(tone_run, faulty, tmp_path, capsys):
    output = tmp_path / "deep/align"
    assert run("align", tone_run.checkpoint, "--data", faulty, "--output", output, "--worst", 2) == 1
    out, err = capsys.readouterr()
    printed = [line for line in err.splitlines() if line.startswith("skipped")]
    assert len(printed) == 4 and "data.list:8: there is no audio file" in printed[0]
    assert "unknown: 'hundred' in 'one hundred' is not in the vocabulary" in printed[1]
    assert "short: " in printed[2] and "frames are too few for the 400 that its 300 tokens need" in printed[2]
    assert "damaged: " in printed[3] and "noise.wav" in printed[3]
    good = [json.loads(line) for line in faulty.read_text().splitlines()[:4]]
    worst = out.splitlines()[1].split()
    assert worst[2] == good[1]["key"] + ":" and float(worst[0]) < -0.05 and "(" in worst[3], (
        "the wrong transcript comes first"
    )
    assert f"{output}: " in out and "of 4 utterances aligned, chunking full, 4 utterances skipped" in out
    assert "--word_times EXPORTED corrects them" in out
    words = read_ctm(output / "words.ctm")
    assert {key: " ".join(word.text for word in found) for key, found in words.items()} == {
        item["key"]: item["txt"] for item in good if item["txt"]
    }
    assert (output / "words.ctm").read_text() == (output / "tokens.ctm").read_text(), "units are words"
    written = json.loads((output / "alignment.json").read_text())
    assert [row["key"] for row in written["utterances"]] == [item["key"] for item in good]
    assert written["utterances"][2]["words"] == 0 and written["utterances"][2]["confidence"] > 0
    assert [f"skipped {reason}" for reason in written["skipped"]] == printed
    names = sorted(path.name for path in (output / "textgrid").iterdir())
    assert names == sorted(f"{item['key'].replace('a/b%', 'a%2Fb%25')}.TextGrid" for item in good)


def test_mistakes_end_in_one_message(tone_run, exported, faulty, tmp_path):
    arguments = ("align", tone_run.checkpoint, "--output", tmp_path / "out", "--data")
    with pytest.raises(ValueError, match="holds no emission delay: export it with --data and --ctm"):
        run(*arguments, faulty, "--word_times", exported)
    with pytest.raises(ValueError, match="is a training checkpoint"):
        run(*arguments, faulty, "--word_times", tone_run.checkpoint)
    with pytest.raises(ValueError, match="--worst -1"):
        run(*arguments, faulty, "--worst", -1)
    bad = faulty.read_text().splitlines(keepends=True)[4:]
    faulty.write_text("".join(bad))
    with pytest.raises(ValueError, match="none of the 3 utterances could be aligned; the first problem: unknown: "):
        run(*arguments, faulty)
    assert not (tmp_path / "out").exists()


def test_usable_input_ends_with_status_0(tone_run, tmp_path, capsys):
    assert run("align", tone_run.checkpoint, "--data", tone_run.dev_list, "--output", tmp_path / "a") == 0
    assert "30 utterances aligned" in capsys.readouterr().out
