"""Evaluation: every mode and chunking, the files it leaves, and the tokens that the shipped runtime gives too."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import soundfile
import soxr
from conftest import tiny_recipe, tiny_trained
from tones import RATE, speak

from wenet_fusion import evaluation
from wenet_fusion.chunking import Chunking, parse_chunking
from wenet_fusion.cli import main
from wenet_fusion.deployment import acoustic_model
from wenet_fusion.error_rate import score
from wenet_fusion.evaluation import ALL_MODES, EvaluationOptions, evaluate
from wenet_fusion.export.torchscript import export_torchscript
from wenet_fusion.files import read_table
from wenet_fusion.recipe import load_trained
from wenet_fusion_runtime import DecodingOptions, Recognizer
from wenet_fusion_runtime.decoding import GREEDY, MODES, PREFIX_BEAM, RESCORING, offline_step, transcribe_offline
from wenet_fusion_runtime.result import joined_ids

LONG = 110  # words, about 32 s: the runtime closes a segment at 30 s at the latest
CHUNKINGS = ("full", "8/2", "4/4")


@pytest.fixture(scope="module")
def model(tone_run):
    return load_trained(tone_run.checkpoint)


@pytest.fixture(scope="module")
def halfway(tone_run):
    """A model that still makes mistakes, so that searches disagree."""
    return load_trained(tone_run.model_dir / "step_000050.pt")


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    """Six short recordings, one at 16 kHz, one empty of words, and one of many segments."""
    folder = tmp_path_factory.mktemp("test")
    rng = np.random.default_rng(7)
    lines = []
    for number in range(8):
        words = rng.choice(["one", "two", "three"], LONG if number == 7 else number).tolist()
        samples, rate = speak(words, rng), RATE
        if number == 3:
            samples, rate = soxr.resample(samples, RATE, 16000), 16000
        soundfile.write(folder / f"t{number}.wav", samples, rate, subtype="PCM_16")
        lines.append(json.dumps({"key": f"t{number}", "wav": f"t{number}.wav", "txt": " ".join(words)}))
    (folder / "data.list").write_text("\n".join(lines) + "\n")
    return folder / "data.list"


@pytest.fixture(scope="module")
def evaluated(model, data_list, tmp_path_factory):
    """Result and result directory of all modes and chunkings."""
    folder = tmp_path_factory.mktemp("results")
    options = EvaluationOptions(chunkings=tuple(map(parse_chunking, CHUNKINGS)))
    return evaluate(model, data_list, options, folder), folder


@pytest.fixture(scope="module")
def offline(halfway, data_list, tmp_path_factory):
    """Tokens of the runtime's modes under the model that makes mistakes: (mode, chunking) -> key -> ids."""
    folder = tmp_path_factory.mktemp("halfway")
    evaluate(halfway, data_list, EvaluationOptions(MODES, tuple(map(parse_chunking, CHUNKINGS))), folder)
    tokens = {}
    for mode in MODES:
        for label in CHUNKINGS:
            tokens[mode, label] = tokens_of(folder / f"{mode}.{label.replace('/', '-')}" / "tokens")
    return tokens


def tokens_of(path):
    rows = [line.split() for line in path.read_text().splitlines()]
    return {key: list(map(int, ids)) for key, *ids in rows}


def test_one_row_and_three_files_for_each_mode_and_chunking(evaluated, data_list):
    result, folder = evaluated
    assert [(row.mode, row.chunking) for row in result.rows] == [(m, c) for c in CHUNKINGS for m in ALL_MODES]
    assert result.skipped == []
    written = json.loads((folder / "results.json").read_text())
    assert written["rows"] == [dataclasses.asdict(row) for row in result.rows]
    assert written["data"] == str(data_list) and written["checkpoint"].endswith("step_000100.pt")
    references = {line["key"]: line["txt"] for line in map(json.loads, data_list.read_text().splitlines())}
    for row in result.rows:
        directory = folder / f"{row.mode}.{row.chunking.replace('/', '-')}"
        assert sorted(path.name for path in directory.iterdir()) == ["text", "tokens", "wer"]
        hypotheses = read_table(directory / "text")
        scored = score(references, hypotheses, "word")
        assert (row.utterances, row.words) == (8, sum(len(text.split()) for text in references.values()))
        assert (row.wer, row.substitutions) == (scored.total.rate, scored.total.substitutions)
        assert row.utterances_wrong == sum(references[key].split() != hypotheses[key].split() for key in references)
        assert (directory / "wer").read_text() == scored.report()
        names = {3: "zero", 4: "one", 5: "two", 6: "three"}
        spelled = {key: " ".join(names[i] for i in ids) for key, ids in tokens_of(directory / "tokens").items()}
        assert spelled == hypotheses
        assert row.wer < 0.1 or row.mode == "attention", "CTC has learned the task, the decoder alone has not yet"


@pytest.mark.parametrize("mode", [PREFIX_BEAM, RESCORING])
def test_one_search_for_two_modes_changes_neither(offline, halfway, data_list, tmp_path, mode):
    """Together with rescoring, prefix beam search is read from the search that rescoring made."""
    evaluate(halfway, data_list, EvaluationOptions(modes=(mode,), chunkings=(Chunking(8, 2),)), tmp_path)
    assert tokens_of(tmp_path / f"{mode}.8-2/tokens") == offline[mode, "8/2"]
    assert offline[PREFIX_BEAM, "8/2"] != offline[RESCORING, "8/2"], "else a mix-up would not be seen"


def test_the_long_recording_has_several_segments(model):
    """Else nothing above would show that segments are joined."""
    samples = speak(["one", "two", "three"] * (LONG // 3 + 1), np.random.default_rng(7))
    assert len(transcribe_offline(acoustic_model(model), samples, 8, 2)) > 1


# ---- the same tokens from the runtime


@pytest.fixture(scope="module")
def exported_halfway(halfway, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "tones.pt"
    export_torchscript(halfway, path)
    return path


def stream_tokens(recognizer, data_list, chunking, seed, before_each=lambda stream: None):
    """Token ids per recording, fed in random pieces of 1 sample to a second, at the recording's own rate."""
    rng = np.random.default_rng(seed)
    found = {}
    for line in map(json.loads, data_list.read_text().splitlines()):
        samples, rate = soundfile.read(data_list.parent / line["wav"], dtype="float32")
        stream, position = recognizer.create_stream(*chunking), 0
        while position < len(samples):
            length = int(np.exp(rng.uniform(0, np.log(rate))))
            before_each(stream)
            stream.accept_waveform(samples[position : position + length], rate)
            position += length
        stream.finish()
        found[line["key"]] = joined_ids(stream.finals)
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("label, seed", [("8/2", 0), ("4/4", 1)])
def test_streams_give_the_tokens_of_offline_evaluation(offline, exported_halfway, data_list, mode, label, seed):
    recognizer = Recognizer(exported_halfway, DecodingOptions(mode))
    assert stream_tokens(recognizer, data_list, parse_chunking(label), seed) == offline[mode, label]


def test_the_check_sees_a_stream_that_forgets(offline, exported_halfway, data_list):
    """Seeded bug: every piece begins with a fresh state."""
    recognizer = Recognizer(exported_halfway, DecodingOptions(GREEDY))

    def forget(stream):
        stream._state = recognizer.model.init_state(1, 4, 4)

    assert stream_tokens(recognizer, data_list, Chunking(4, 4), 0, forget) != offline[GREEDY, "4/4"]


def test_chunkings_matter(halfway):
    """Else equality at each of them would prove little."""
    model, samples = acoustic_model(halfway), speak(["one", "two", "three"] * 4, np.random.default_rng(0))
    steps = [offline_step(model, [samples], *parse_chunking(label)) for label in CHUNKINGS]
    for left, right in itertools.combinations(steps, 2):
        assert np.abs(left.log_probs - right.log_probs).max() > 0.1


def test_audio_is_read_once_and_batch_by_batch(model, data_list, tmp_path, monkeypatch):
    """A test set may be larger than the memory."""
    read, step = evaluation.read_samples, evaluation.offline_step
    events = []
    monkeypatch.setattr(evaluation, "read_samples", lambda *args: events.append("read") or read(*args))
    monkeypatch.setattr(evaluation, "offline_step", lambda *args: events.append("step") or step(*args))
    options = EvaluationOptions((GREEDY,), (Chunking(8, 2), Chunking(4, 4)), max_batch_seconds=5.0)
    evaluate(model, data_list, options, tmp_path)
    assert events.count("read") == 8 and events.index("step") < 8
    batches = "".join(event[0] for event in events).split("ss")
    assert len(batches) > 3 and all(set(batch) <= {"r"} for batch in batches), "each batch under both chunkings"


# ---- bad input


def test_unreadable_audio_is_counted_and_told(tone_run, data_list, tmp_path, capsys):
    lines = data_list.read_text().splitlines()[1:4]
    for number, content in ((0, b""), (1, b"RIFF, but no wave file")):
        (tmp_path / f"bad{number}.wav").write_bytes(content)
        lines.append(json.dumps({"key": f"bad{number}", "wav": str(tmp_path / f"bad{number}.wav"), "txt": "one"}))
    with_bad = data_list.with_name("with_bad.list")
    with_bad.write_text("\n".join(lines) + "\n")
    result_dir = tmp_path / "deep/results"
    arguments = [
        "--checkpoint", tone_run.checkpoint, "--result_dir", result_dir, "--modes", GREEDY, "--chunkings", "8/2"
    ]
    assert main(["evaluate", "--data", str(with_bad), *map(str, arguments)]) == 1
    captured = capsys.readouterr()
    assert "skipped bad0: " in captured.err and "bad0.wav: is an empty file" in captured.err
    assert "bad1.wav: cannot be read as audio" in captured.err and GREEDY in captured.out
    written = json.loads((result_dir / "results.json").read_text())
    assert len(written["skipped"]) == 2 and written["rows"][0]["utterances"] == 3

    with_bad.write_text("\n".join(lines[3:]) + "\n")
    with pytest.raises(ValueError, match="of .*with_bad.list could be read; the first problem: bad0: .*bad0.wav"):
        main(["evaluate", "--data", str(with_bad), *map(str, arguments)])


def test_what_the_model_cannot_do_is_refused_before_any_work(tone_run, data_list, tmp_path, tiny_units):
    arguments = ["evaluate", "--checkpoint", tone_run.checkpoint, "--data", data_list, "--result_dir", tmp_path / "r"]
    for label, message in (("5/2", "not trained for it; choose one of 4/4, 8/2"), ("16x4", "neither 'full' nor SIZE")):
        with pytest.raises(ValueError, match=message):
            main([*map(str, arguments), "--chunkings", label])
    recipe = tiny_recipe(tiny_units)
    decoder = dataclasses.replace(recipe.model.decoder, layers=0, reverse_layers=0)
    loss = dataclasses.replace(recipe.model.loss, ctc_weight=1.0, reverse_weight=0.0)
    ctc_only = tiny_trained(
        dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, decoder=decoder, loss=loss))
    )
    full = (parse_chunking("full"),)
    with pytest.raises(ValueError, match=f"tiny.pt has no attention decoder; choose from {GREEDY}, {PREFIX_BEAM}"):
        evaluate(ctc_only, data_list, EvaluationOptions(chunkings=full), tmp_path)
    plain = evaluate(ctc_only, data_list, EvaluationOptions((GREEDY, PREFIX_BEAM), full), tmp_path)
    assert [row.mode for row in plain.rows] == [GREEDY, PREFIX_BEAM]
    for modes, chunkings, message in ((("guess",), full, "unknown decoding mode"), ((RESCORING,), (), "no chunking")):
        with pytest.raises(ValueError, match=message):
            EvaluationOptions(modes, chunkings)


def test_errors_are_counted_in_characters_on_request(model, data_list, tmp_path):
    options = EvaluationOptions((GREEDY,), (Chunking(8, 2),), unit="char")
    (row,) = evaluate(model, data_list, options, tmp_path).rows
    references = [json.loads(line)["txt"] for line in data_list.read_text().splitlines()]
    assert row.words == sum(len(text.replace(" ", "")) for text in references)
