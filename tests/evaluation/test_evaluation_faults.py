"""Killed evaluations resume, unusable input is listed, impossible options are refused."""

import dataclasses
import json

import pytest
from conftest import changed, tiny_recipe, tiny_trained
from support.runtime.full_disk import files_of_at_most
from test_evaluation import data_list, model  # noqa: F401  # fixtures
from wenet_fusion_runtime import DecodingOptions
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM, RESCORING

from wenet_fusion.cli.__main__ import main
from wenet_fusion.evaluation import decode_list
from wenet_fusion.evaluation.options import ATTENTION, PLAIN, EvaluationOptions, Variant
from wenet_fusion.evaluation.results import read_results
from wenet_fusion.evaluation.run import evaluate
from wenet_fusion.model.chunking import Chunking, parse_chunking
from wenet_fusion.scoring.transcripts import Counting
from wenet_fusion.text.tokenizer import CharTokenizer

# ---- an evaluation that was killed


class Killed(BaseException):
    pass


@pytest.fixture
def killed(model, data_list, tmp_path, monkeypatch):
    """Return the options of an evaluation in `tmp_path` that was killed in its third batch, and its decoded keys."""
    options = EvaluationOptions((GREEDY, ATTENTION), (Chunking(8, 2), Chunking(4, 4)), max_batch_seconds=5.0)
    decode, done = decode_list.BatchDecoder.decode, []

    def dies(self, number, utterances):
        if len(done) > 2:
            raise Killed
        done.extend(utterance.key for utterance in utterances)
        return decode(self, number, utterances)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(decode_list.BatchDecoder, "decode", dies)
        evaluate(model, data_list, options, tmp_path)
    return options, set(done)


@pytest.fixture
def read_keys(monkeypatch):
    """Return the list that gets the keys whose audio is read from now on."""
    read, keys = decode_list.read_samples, []
    monkeypatch.setattr(decode_list, "read_samples", lambda item, rate: keys.append(item.key) or read(item, rate))
    return keys


def same_results(left, right):
    return [found._replace(encoder_seconds=0, search_seconds=0) for found in left.found] == [
        found._replace(encoder_seconds=0, search_seconds=0) for found in right.found
    ]


def test_utterances_decoded_before_a_kill_are_not_decoded_again(
    killed, model, data_list, tmp_path, tmp_path_factory, read_keys
):
    options, done = killed
    part = tmp_path / "unfinished" / "rank0.jsonl"
    with part.open("a") as file:
        file.write('{"number": 3, "keys": ["t')  # the kill cut a line
    resumed = evaluate(model, data_list, options, tmp_path)
    assert 2 < len(done) < 8 and set(read_keys) == {f"t{n}" for n in range(8)} - done
    whole = evaluate(model, data_list, options, tmp_path_factory.mktemp("whole"))
    assert same_results(resumed.evaluation, whole.evaluation)
    assert not (tmp_path / "unfinished").exists()


@pytest.mark.parametrize("room", [-100, 100])
def test_a_full_disk_loses_nothing_that_was_decoded(
    killed, model, data_list, tmp_path, tmp_path_factory, read_keys, room
):
    """The disk has no room for the earlier results, which are written again, or for anything after them."""
    options, done = killed
    folder = tmp_path / "unfinished"
    size = sum(path.stat().st_size for path in folder.iterdir())
    name = "earlier" if room < 0 else "rank0"
    with files_of_at_most(size + room), pytest.raises(OSError) as caught:
        evaluate(model, data_list, options, tmp_path)
    assert str(caught.value) == (
        f"{folder / name}.jsonl cannot be written (File too large); free some space, or name another place"
    )
    read_keys.clear()
    resumed = evaluate(model, data_list, options, tmp_path)
    assert not set(read_keys) & done
    whole = evaluate(model, data_list, options, tmp_path_factory.mktemp("whole"))
    assert same_results(resumed.evaluation, whole.evaluation)


@pytest.mark.parametrize("change", ["settings", "weights", "audio"])
def test_results_of_another_evaluation_are_not_used(killed, model, data_list, tmp_path, read_keys, change):
    options, _ = killed
    if change == "settings":
        options = dataclasses.replace(options, variants=(Variant(PLAIN, DecodingOptions(beam_size=2)),))
    if change == "audio":
        path = data_list.with_name("t0.wav")
        path.write_bytes(path.read_bytes())
    other = changed(model, lambda network: network.ctc.linear.bias.add_(1e-3))  # a model of the same configuration
    evaluate(other if change == "weights" else model, data_list, options, tmp_path)
    assert sorted(read_keys) == [f"t{n}" for n in range(8)]


# ---- bad input


def evaluate_command(tone_run, data, result_dir, *more):
    arguments = ["--checkpoint", tone_run.checkpoint, "--result_dir", result_dir, "--data", data]
    return main(["evaluate", *map(str, arguments), "--modes", GREEDY, "--chunkings", "8/2", *more])


def test_utterances_that_cannot_be_used_are_listed_and_counted(tone_run, data_list, tmp_path, capsys):
    """With damaged audio, a line without audio, and a repeated key, the other utterances are evaluated."""
    good = lines = data_list.read_text().splitlines()[1:4]
    lines = list(good)
    for number, content in ((0, b""), (1, b"RIFF, but no wave file")):
        (tmp_path / f"bad{number}.wav").write_bytes(content)
        lines.append(json.dumps({"key": f"bad{number}", "wav": str(tmp_path / f"bad{number}.wav"), "txt": "one"}))
    lines += [json.dumps({"key": "gone", "wav": "gone.wav", "txt": "one"}), good[0], '{"key": "silent", "txt": ""}']
    with_bad = data_list.with_name("with_bad.list")
    with_bad.write_text("\n".join(lines) + "\n")
    result_dir = tmp_path / "deep/results"
    assert evaluate_command(tone_run, with_bad, result_dir) == 1
    captured = capsys.readouterr()
    printed = captured.err
    assert (
        "skipped bad0: " in printed
        and "bad0.wav: is an empty file" in printed
        and "bad1.wav: cannot be read as audio" in printed
    )
    assert f"skipped {with_bad}:6: there is no audio file {with_bad.parent}/gone.wav" in printed
    assert f"{with_bad}:7: key 't1' is already in {with_bad}:1" in printed and f"{with_bad}:8: no wav in" in printed
    assert GREEDY in captured.out and printed.endswith("skipped 5 in all, 3 utterances evaluated\n")
    written = json.loads((result_dir / "results.json").read_text())
    assert len(written["skipped"]) == 5 and written["rows"][0]["utterances"] == 3
    assert "## Problems: 5" in (result_dir / "report.md").read_text()

    with_bad.write_text("\n".join(lines[3:5]) + "\n")
    with pytest.raises(ValueError, match="of .*with_bad.list could be read; the first problem: bad0: .*bad0.wav"):
        evaluate_command(tone_run, with_bad, result_dir)
    with_bad.write_text(lines[5] + "\n")
    with pytest.raises(ValueError, match="with_bad.list:1: there is no audio file"):
        evaluate_command(tone_run, with_bad, result_dir)


def test_a_recording_that_went_missing_is_skipped(tone_run, data_list, tmp_path, capsys):
    """A line with a duration, as make_raw_list.py writes it, is not opened while the list is read."""
    lines = data_list.read_text().splitlines()[1:4]
    lines.append(json.dumps({"key": "lost", "wav": str(tmp_path / "lost.wav"), "txt": "one", "duration": 1.0}))
    with_lost = data_list.with_name("with_lost.list")
    with_lost.write_text("\n".join(lines) + "\n")
    assert evaluate_command(tone_run, with_lost, tmp_path / "results") == 1
    printed = capsys.readouterr().err
    assert "skipped lost: " in printed and "lost.wav" in printed
    assert printed.endswith("skipped 1 in all, 3 utterances evaluated\n")


def test_impossible_options_are_refused_before_any_work(tone_run, data_list, tmp_path, tiny_units, capsys):
    for more, message in (
        (("--chunkings", "5/2"), "not trained for it; choose one of 4/4, 8/2"),
        (("--chunkings", "16x4"), "neither 'full' nor SIZE"),
        (("--chunkings", "8/2", "8/2"), "chunkings: 8/2, 8/2: one is given twice"),
        (("--hot_word", "three"), f"hot words: no effect on {GREEDY}; add {PREFIX_BEAM} or {RESCORING} to the modes"),
        (("--length_penalty", "1"), f"length penalty: no effect on {GREEDY}; add {PREFIX_BEAM} or"),
        (("--beam_size", "0"), "beam_size must be at least 1, found 0"),
        (("--beam_size", "14"), "beam_size 14 is larger than the vocabulary of 13 tokens; choose 13 or less"),
        (("--max_batch_seconds", "0"), "max_batch_seconds .0.0. must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_command(tone_run, data_list, tmp_path / "r", *more)
    with pytest.raises(SystemExit):
        evaluate_command(tone_run, data_list, tmp_path / "r", "--modes", "guess")
    assert "invalid choice: 'guess'" in capsys.readouterr().err
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
    assert [condition.row.mode for condition in plain.conditions] == [GREEDY, PREFIX_BEAM]
    for modes, chunkings, message in ((("guess",), full, "unknown decoding mode"), ((RESCORING,), (), "no chunking")):
        with pytest.raises(ValueError, match=message):
            EvaluationOptions(modes, chunkings)


def test_errors_are_counted_in_characters_on_request(model, data_list, tmp_path):
    options = EvaluationOptions((GREEDY,), (Chunking(8, 2),), counting=Counting("char"))
    ((_, _, row),) = evaluate(model, data_list, options, tmp_path).conditions
    references = [json.loads(line)["txt"] for line in data_list.read_text().splitlines()]
    assert row.words == sum(len(text.replace(" ", "")) for text in references)
    assert "CER, % of" in (tmp_path / "report.md").read_text()


def test_references_lose_the_special_tokens_that_training_removes(trained, data_list, tmp_path):
    """A missing file whose name is not UTF-8 is listed beside it, in files that can be read back."""
    lines = [json.loads(line) for line in data_list.read_text().splitlines()[1:3]]
    expected = {line["key"]: line["txt"] for line in lines}
    lines[0]["txt"] = f"[noise] {lines[0]['txt']} <unk>"
    lines.append({"key": "gone", "wav": "caf\udce9.wav", "txt": "one"})
    marked = data_list.with_name("marked.list")
    marked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenizer = CharTokenizer(trained.tokenizer.vocabulary, "remove")
    options = EvaluationOptions((GREEDY,), (parse_chunking("full"),))
    evaluation, _ = evaluate(dataclasses.replace(trained, tokenizer=tokenizer), marked, options, tmp_path)
    assert evaluation.references == expected
    assert r"caf\udce9.wav" in evaluation.skipped[0]
    assert read_results(tmp_path).skipped == evaluation.skipped


def test_memory_that_runs_out_names_the_batch_and_the_option(model, data_list, tmp_path, monkeypatch):
    def offline_step(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(decode_list, "offline_step", offline_step)
    options = EvaluationOptions((GREEDY,), (Chunking(8, 2),), max_batch_seconds=5.0)
    message = r"memory ran out while decoding \d+ utterances of up to .* s \(t\d\): lower --max_batch_seconds \(now 5\)"
    with pytest.raises(OSError, match=message):
        evaluate(model, data_list, options, tmp_path)
