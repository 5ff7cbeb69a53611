"""Evaluation: every mode, chunking and variant, the written files, and the same tokens as the runtime."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import soundfile
import soxr
from support.model.tones import RATE, speak
from wenet_fusion_runtime import DecodingOptions, Recognizer
from wenet_fusion_runtime.results.result import joined_ids
from wenet_fusion_runtime.search.modes import GREEDY, MODES, PREFIX_BEAM, RESCORING
from wenet_fusion_runtime.stream.offline import offline_step, transcribe_offline

from wenet_fusion.cli.__main__ import main
from wenet_fusion.data.lists.kaldi import read_table
from wenet_fusion.evaluation import decode_list
from wenet_fusion.evaluation.options import ALL_MODES, ATTENTION, PLAIN, EvaluationOptions, Variant
from wenet_fusion.evaluation.results import condition_folder, read_results
from wenet_fusion.evaluation.run import evaluate
from wenet_fusion.model.chunking import Chunking, parse_chunking
from wenet_fusion.scoring.error_rate import score
from wenet_fusion.trained_model import acoustic_model, load_trained

LONG = 110  # words, about 32 s; the runtime closes a segment after 30 s at the latest
CHUNKINGS = ("full", "8/2", "4/4")


@pytest.fixture(scope="module")
def model(tone_run):
    return load_trained(tone_run.checkpoint)


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    """Six short recordings, one of them at 16 kHz, one without words, and one long recording of many segments."""
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
def offline(trained, data_list, tmp_path_factory):
    """Tokens by (mode, chunking) and key, from an untrained model, so that searches disagree."""
    folder = tmp_path_factory.mktemp("offline")
    evaluate(trained, data_list, EvaluationOptions(MODES, tuple(map(parse_chunking, CHUNKINGS))), folder)
    tokens = {}
    for mode in MODES:
        for label in CHUNKINGS:
            tokens[mode, label] = tokens_of(folder / condition_folder(mode, label) / "tokens")
    return tokens


def tokens_of(path):
    rows = [line.split() for line in path.read_text().splitlines()]
    return {key: list(map(int, ids)) for key, *ids in rows}


def test_one_row_and_three_files_for_each_mode_and_chunking(evaluated, data_list):
    (evaluation, conditions), folder = evaluated
    rows = [condition.row for condition in conditions]
    assert [(row.mode, row.chunking) for row in rows] == [(m, c) for m in ALL_MODES for c in CHUNKINGS]
    assert evaluation.skipped == [] and {row.variant for row in rows} == {PLAIN}
    written = json.loads((folder / "results.json").read_text())
    assert written["rows"] == json.loads(json.dumps(list(map(dataclasses.asdict, rows))))
    assert written["data"] == str(data_list) and written["checkpoint"].endswith("step_000100.pt")
    assert {"plain", "counted", "commit", "machine", "software"} == set(written["facts"])
    references = {line["key"]: line["txt"] for line in map(json.loads, data_list.read_text().splitlines())}
    for row in rows:
        directory = folder / condition_folder(row.mode, row.chunking)
        assert sorted(path.name for path in directory.iterdir()) == ["text", "tokens", "wer"]
        hypotheses = read_table(directory / "text")
        scored = score(references, hypotheses)
        assert (row.utterances, row.words) == (8, sum(len(text.split()) for text in references.values()))
        assert (row.wer, row.substitutions) == (scored.total.rate, scored.total.substitutions)
        assert row.interval == scored.interval() and row.interval[0] <= row.wer <= row.interval[1]
        assert sum(bucket.deletions for bucket in row.deletions_by_length) == row.deletions
        assert sum(bucket.utterances for bucket in row.deletions_by_length) == row.utterances
        assert row.utterances_wrong == sum(references[key].split() != hypotheses[key].split() for key in references)
        assert (directory / "wer").read_text() == scored.report()
        names = {3: "zero", 4: "one", 5: "two", 6: "three"}
        spelled = {key: " ".join(names[i] for i in ids) for key, ids in tokens_of(directory / "tokens").items()}
        assert spelled == hypotheses
        assert row.wer < 0.1 or row.mode == ATTENTION, "CTC has learned the task, the decoder alone has not yet"
        assert 0 < row.real_time_factor < 1


def test_every_utterance_is_a_line_for_each_condition(evaluated):
    (evaluation, conditions), folder = evaluated
    lines = list(map(json.loads, (folder / "utterances.jsonl").read_text().splitlines()))
    assert len(lines) == 8 * len(conditions)
    for number, ((found, _, _), utterance) in enumerate(
        (condition, utterance) for condition in conditions for utterance in condition.scoring.utterances
    ):
        line = lines[number]
        assert (line["mode"], line["variant"], line["chunking"]) == (found.mode, found.variant, found.chunking)
        assert (line["key"], line["errors"]) == (utterance.key, utterance.counts.errors)
        assert line["errors"] == line["substitutions"] + line["deletions"] + line["insertions"]
        assert (
            line["hypothesis"] == found.texts[line["key"]] and line["reference"] == evaluation.references[line["key"]]
        )


def test_results_come_back_from_their_files(evaluated, tmp_path):
    (evaluation, _), folder = evaluated
    assert read_results(folder) == evaluation
    report = (folder / "report.md").read_text()
    assert main(["report", str(folder)]) == 0 and (folder / "report.md").read_text() == report
    with pytest.raises(OSError, match="results.json"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="its results are damaged .*evaluate again"):
        read_results(tmp_path)


@pytest.mark.parametrize("mode", [PREFIX_BEAM, RESCORING])
def test_a_mode_does_not_depend_on_the_others(offline, trained, data_list, tmp_path, mode):
    evaluate(trained, data_list, EvaluationOptions(modes=(mode,), chunkings=(Chunking(8, 2),)), tmp_path)
    assert tokens_of(tmp_path / condition_folder(mode, "8/2") / "tokens") == offline[mode, "8/2"]
    assert offline[PREFIX_BEAM, "8/2"] != offline[RESCORING, "8/2"], "otherwise the test could not find a mix-up"


def test_variants_stand_beside_the_plain_search(offline, trained, data_list, tmp_path):
    """Modes that the variants do not change are decoded once."""
    variants = (Variant(PLAIN, DecodingOptions()), Variant("narrow beam", DecodingOptions(beam_size=1)))
    options = EvaluationOptions(chunkings=(Chunking(8, 2),), variants=variants)
    rows = [condition.row for condition in evaluate(trained, data_list, options, tmp_path).conditions]
    expected = [(mode, PLAIN) for mode in ALL_MODES] + [(PREFIX_BEAM, "narrow beam"), (RESCORING, "narrow beam")]
    assert [(row.mode, row.variant) for row in rows] == expected
    for mode in (PREFIX_BEAM, RESCORING):
        assert tokens_of(tmp_path / condition_folder(mode, "8/2") / "tokens") == offline[mode, "8/2"]
    narrow = tokens_of(tmp_path / "ctc_prefix_beam_search.8-2.narrow_beam/tokens")
    assert narrow != offline[PREFIX_BEAM, "8/2"]
    assert narrow == tokens_of(tmp_path / "attention_rescoring.8-2.narrow_beam/tokens"), (
        "one hypothesis, nothing to rescore"
    )
    report = (tmp_path / "report.md").read_text()
    assert "| ctc_prefix_beam_search + narrow beam | " in report and "- narrow beam: beam_size 1," in report


ARPA = """\\data\\
ngram 1=6

\\1-grams:
-99 <s>
-3 </s>
-3 <unk>
-0.01 one
-3 two
-3 three

\\end\\
"""


def test_a_length_penalty_leaves_greedy_search_as_it_is(tone_run, data_list, tmp_path):
    """The option applies to all modes at once; greedy search has no alternatives."""
    folders = {}
    for penalty in ("0", "50"):
        folders[penalty] = tmp_path / penalty
        data = ("--checkpoint", tone_run.checkpoint, "--data", data_list, "--result_dir", folders[penalty])
        choice = ("--modes", GREEDY, PREFIX_BEAM, "--chunkings", "8/2", "--length_penalty", penalty)
        assert main(list(map(str, ["evaluate", *data, *choice]))) == 0
    greedy, beam = (
        [(folder / condition_folder(mode, "8/2") / "text").read_text() for folder in folders.values()]
        for mode in (GREEDY, PREFIX_BEAM)
    )
    assert greedy[0] == greedy[1] and len(beam[1].split()) < len(beam[0].split())


def test_hot_words_and_a_language_model_from_the_command_line(tone_run, data_list, tmp_path, capsys):
    """Hot words that cannot be spelled are reported, and the others are used."""
    (tmp_path / "hot").write_text("three\t20\nelephant\n")
    (tmp_path / "lm.arpa").write_text(ARPA)
    data = ("--checkpoint", tone_run.checkpoint, "--data", data_list, "--result_dir", tmp_path / "r")
    added = ("--hot_words", tmp_path / "hot", "--language_model", tmp_path / "lm.arpa", "--lm_weight", "9")
    choice = ("--modes", GREEDY, PREFIX_BEAM, "--chunkings", "8/2")
    assert main(list(map(str, ["evaluate", *data, *added, *choice]))) == 1
    printed = capsys.readouterr()
    assert f"{tmp_path / 'hot'}:2: hot word 'elephant'" in printed.err
    texts = {
        variant: (tmp_path / "r" / condition_folder(PREFIX_BEAM, "8/2", variant) / "text").read_text()
        for variant in (PLAIN, "hot words", "language model", "hot words + language model")
    }
    assert len({*texts.values()}) > 2 and texts["hot words"].count("three") > texts[PLAIN].count("three")
    assert texts["language model"].count("three") < texts[PLAIN].count("three")
    facts = json.loads((tmp_path / "r/results.json").read_text())["facts"]
    assert (
        facts["hot words"].endswith(f"1 hot word of {tmp_path / 'hot'}") and "lm_weight 9, " in facts["language model"]
    )
    assert sorted(path.name for path in (tmp_path / "r").iterdir() if path.is_dir()) == [
        "ctc_greedy_search.8-2", "ctc_prefix_beam_search.8-2", "ctc_prefix_beam_search.8-2.hot_words",
        "ctc_prefix_beam_search.8-2.hot_words_+_language_model", "ctc_prefix_beam_search.8-2.language_model",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="--lm_weight has no effect without --language_model"):
        main(list(map(str, ["evaluate", *data, *choice, "--lm_weight", "9"])))


def test_a_grammar_rejects_other_speech(tone_run, data_list, tmp_path, capsys):
    (tmp_path / "codes.txt").write_text("one\ntwo\nthree\n")
    data = ("--checkpoint", tone_run.checkpoint, "--data", data_list, "--result_dir", tmp_path / "r")
    choice = ("--modes", GREEDY, PREFIX_BEAM, "--chunkings", "8/2", "--grammar", tmp_path / "codes.txt")
    assert main(list(map(str, ["evaluate", *data, *choice]))) == 0
    written = json.loads((tmp_path / "r/results.json").read_text())
    empty = {(row["mode"], row["variant"]): row["utterances_empty"] for row in written["rows"]}
    assert set(empty) == {(GREEDY, PLAIN), (PREFIX_BEAM, PLAIN), (PREFIX_BEAM, "grammar")}
    assert empty[PREFIX_BEAM, PLAIN] == 0 < empty[PREFIX_BEAM, "grammar"]
    table = capsys.readouterr().out.splitlines()
    assert table[0].endswith(" rejected") and table[3].endswith(f" {empty[PREFIX_BEAM, 'grammar']}")
    assert f"{tmp_path / 'codes.txt'} (SHA-256 " in written["facts"]["grammar"]
    with pytest.raises(ValueError, match="grammar: no effect on ctc_greedy_search"):
        main(list(map(str, ["evaluate", *data, "--modes", GREEDY, *choice[3:]])))
    with pytest.raises(ValueError, match="--grammar_threshold has no effect without --grammar FILE"):
        main(list(map(str, ["evaluate", *data, "--grammar_threshold", "2"])))


def test_the_long_recording_has_several_segments(model):
    """Otherwise no test above would show that segments are joined."""
    samples = speak(["one", "two", "three"] * (LONG // 3 + 1), np.random.default_rng(7))
    assert len(transcribe_offline(acoustic_model(model), samples, 8, 2)) > 1


# ---- the same tokens from the runtime


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
def test_streams_give_the_tokens_of_offline_evaluation(offline, exported, data_list, mode, label, seed):
    recognizer = Recognizer(exported, DecodingOptions(mode))
    assert stream_tokens(recognizer, data_list, parse_chunking(label), seed) == offline[mode, label]


def test_the_check_sees_a_stream_that_forgets(offline, exported, data_list):
    """Seeded bug: every piece begins with a fresh state."""
    recognizer = Recognizer(exported, DecodingOptions(GREEDY))

    def forget(stream):
        stream._state = recognizer.model.init_state(1, 4, 4)

    assert stream_tokens(recognizer, data_list, Chunking(4, 4), 0, forget) != offline[GREEDY, "4/4"]


def test_chunkings_matter(trained):
    """If chunkings gave the same tokens, equality at each of them would prove little."""
    model, samples = acoustic_model(trained), speak(["one", "two", "three"] * 4, np.random.default_rng(0))
    steps = [offline_step(model, [samples], *parse_chunking(label)) for label in CHUNKINGS]
    for left, right in itertools.combinations(steps, 2):
        assert np.abs(left.log_probs - right.log_probs).max() > 0.1


def test_audio_is_read_once_and_batch_by_batch(model, data_list, tmp_path, monkeypatch):
    """A test set may be larger than the memory."""
    read, step = decode_list.read_samples, decode_list.offline_step
    events = []
    monkeypatch.setattr(decode_list, "read_samples", lambda *args: events.append("read") or read(*args))
    monkeypatch.setattr(decode_list, "offline_step", lambda *args: events.append("step") or step(*args))
    options = EvaluationOptions((GREEDY,), (Chunking(8, 2), Chunking(4, 4)), max_batch_seconds=5.0)
    evaluate(model, data_list, options, tmp_path)
    assert events.count("read") == 8 and events.index("step") < 8
    batches = "".join(event[0] for event in events).split("ss")
    assert len(batches) > 3 and all(set(batch) <= {"r"} for batch in batches), "each batch under both chunkings"
