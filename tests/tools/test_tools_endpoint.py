"""tools/measure/measure_endpoints.py counts the effects of each set of rules correctly."""

import json
from pathlib import Path

import measure_endpoints
import numpy as np
import pytest
import soundfile
from support.runtime.fake_model import FRAME, SAMPLE_RATE, save_model, speak
from wenet_fusion_runtime import EndpointRules


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("endpoints")
    save_model(path / "model.zip")
    records = []
    for key, text in (("one", "a b c"), ("two", "d"), ("three", "b a")):
        soundfile.write(path / f"{key}.wav", speak(text.replace(" ", "")), SAMPLE_RATE, subtype="FLOAT")
        records.append(json.dumps({"key": key, "wav": f"{key}.wav", "txt": text}))
    (path / "data.list").write_text("\n".join(records) + "\n")
    return path


def table(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, str]]:
    command = [str(folder / "model.zip"), str(folder / "data.list"), "--mode", "ctc_greedy_search", *arguments]
    assert measure_endpoints.main(command) == 0
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()[1:]]
    assert tuple(rows[0]) == measure_endpoints.TITLES
    return {row[0]: dict(zip(rows[0], row)) for row in rows[2:]}


def test_pauses_close_segments(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = table(
        folder, capsys, "--pauses", "1", "1", "--rules", "off/off/20", "off/0.6/20", "0.4/0.6/20", "off/off/1"
    )
    assert list(found) == ["off/off/20", "off/0.6/20", "0.4/0.6/20", "off/off/1"]
    plain, paused, both, short = found.values()
    assert (plain["segments"], plain["by rule 2"], plain["final after the last word, 50 / 90 %"]) == ("1", "0", "-")
    # Each recording ends with 2 silent frames and a pause of 1 s, so it is one segment. The rest is a last segment.
    assert (paused["segments"], paused["by rule 2"], paused["without text"]) == ("4", "3", "1")
    # A word is emitted in the first of its 3 frames.
    assert paused["final after the last word, 50 / 90 %"] == "0.68 / 0.68 s"
    assert int(both["by rule 1"]) >= 3 and both["by rule 2"] == "3"
    assert int(short["by rule 3"]) >= 3 and short["by rule 1"] == short["by rule 2"] == "0"
    assert all(row["word error rate"] == "0.00 %" and row["edits to uncut"] == "0" for row in found.values())


ARPA = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-99 <s> 0
-3 </s>
-0.5 a 0
-0.5 b 0
-9 <unk>

\\2-grams:
-0.05 b </s>
-4 a </s>

\\end\\
"""


def test_pauses_within_a_recording_cut_it_off_unless_the_sentence_is_known_to_go_on(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pause = np.zeros(12 * FRAME, np.float32)
    soundfile.write(tmp_path / "one.wav", np.concatenate([speak("a"), pause, speak("b")]), SAMPLE_RATE, subtype="FLOAT")
    (tmp_path / "data.list").write_text(json.dumps({"key": "one", "wav": "one.wav", "txt": "a b"}) + "\n")
    (tmp_path / "lm.arpa").write_text(ARPA)
    command = [str(folder / "model.zip"), str(tmp_path / "data.list"), "--mode", "ctc_greedy_search"]
    command += ["--pauses", "2", "2", "--language_model", str(tmp_path / "lm.arpa"), "--repeat", "2"]
    assert measure_endpoints.main([*command, "--rules", "off/0.4/20", "off/1.2/20", "off/1.2/20/0.5:0.4:0.2"]) == 0
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()[1:]]
    short, long, complete = (dict(zip(rows[0], row)) for row in rows[2:])
    delay = "final after the last word, 50 / 90 %"
    assert (short["cut off"], long["cut off"], complete["cut off"]) == ("2 of 2", "0 of 2", "0 of 2")
    assert (complete["complete"], complete["by rule 2"], long["by rule 2"]) == ("2", "0", "2")
    assert short[delay] == complete[delay] == "0.48 / 0.48 s" and long[delay] == "1.28 / 1.28 s"
    assert complete["word error rate"] == "0.00 %"


def test_recordings_join_to_turns_and_their_pauses_cut_a_turn_off(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--recordings_per_turn", "3", "--pauses_within", "0.8", "0.8", "--pauses", "3", "3", "--repeat", "2"]
    short, long = table(folder, capsys, *arguments, "--rules", "off/0.6/20", "off/2/20").values()
    assert (short["by rule 2"], short["cut off"]) == ("6", "2 of 2")
    assert (long["by rule 2"], long["cut off"]) == ("2", "0 of 2")
    assert short["word error rate"] == long["word error rate"] == "0.00 %"


def test_the_last_turn_may_be_shorter_and_pauses_lie_between_recordings() -> None:
    recordings = [np.full(FRAME, number, np.float32) for number in (1, 2, 3)]
    first, last = measure_endpoints.joined_turns(recordings, 2, SAMPLE_RATE, (0.5, 2.0), 0)
    assert first[0] == 1 and first[-1] == 2 and 0.5 <= (len(first) - 2 * FRAME) / SAMPLE_RATE <= 2.0
    assert not first[FRAME:-FRAME].any() and (last == 3).all() and len(last) == FRAME


def test_rescoring_has_no_edits_to_uncut_and_lists_can_be_repeated(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--mode", "attention_rescoring", "--pauses", "1", "1", "--rules", "off/0.6/20", "--repeat", "2"]
    (found,) = table(folder, capsys, *arguments, "--commit_seconds", "1").values()
    assert (found["edits to uncut"], found["by rule 2"]) == ("-", "6")


def test_recordings_that_cannot_be_read_are_listed_and_the_rest_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.wav").write_bytes(b"RIFF")
    bad = '{"key": "bad", "wav": "bad.wav", "txt": "a", "duration": 1.0}\n'
    (folder / "bad.list").write_text(bad + '{"key": "gone", "wav": "gone.wav", "txt": "a"}\n')
    (folder / "mixed.list").write_text((folder / "data.list").read_text() + (folder / "bad.list").read_text())
    command = [
        str(folder / "model.zip"),
        str(folder / "mixed.list"),
        "--mode",
        "ctc_greedy_search",
        "--rules",
        "off/0.6/20",
    ]
    command += ["--pauses", "1", "1"]
    assert measure_endpoints.main(command) == 1
    out, err = capsys.readouterr()
    assert out.startswith("3 recordings of ") and "| 0.00 % | 0 |" in out
    assert "mixed.list:5: there is no audio file" in err and "bad: " in err
    assert err.endswith("error: 2 recordings could not be read and were left out\n")
    command[1] = str(folder / "bad.list")
    with pytest.raises(ValueError, match="no utterance of .*bad.list could be read; the first problem: "):
        measure_endpoints.main(command)


def test_every_recording_is_followed_by_its_pause() -> None:
    recordings = [np.ones(FRAME, np.float32), np.ones(2 * FRAME, np.float32)]
    joined, turns = measure_endpoints.long_recording(recordings, SAMPLE_RATE, (0.5, 2.0), 0)
    assert [round((turn.end - turn.start) * SAMPLE_RATE) for turn in turns] == [FRAME, 2 * FRAME]
    assert all(joined[round(turn.start * SAMPLE_RATE) : round(turn.end * SAMPLE_RATE)].all() for turn in turns)
    edges = np.flatnonzero(np.diff(joined))
    assert len(edges) == 3 and joined[-1] == 0
    assert 0.5 <= (edges[1] - edges[0]) / SAMPLE_RATE <= 2.0 and edges[2] - edges[1] == 2 * FRAME
    assert len(measure_endpoints.long_recording(recordings, SAMPLE_RATE, (0.0, 0.0), 0)[0]) == 3 * FRAME


def test_rules_are_read_and_bad_ones_named(folder: Path) -> None:
    assert measure_endpoints.parse_rules("2.4/off/10") == EndpointRules(2.4, None, 10.0)
    found = measure_endpoints.parse_rules("2.4/1.2/20/0.6:0.3")
    assert (found.complete_probability, found.complete_seconds, found.complete_pause_seconds) == (0.6, 0.3, 0.5)
    for label in ("1/2/3/1:2:3:4", "1/2/3/x", "1/2/3/0.5/1", "1/2", "a/1/2", "1/1/off", "-1/1/20"):
        with pytest.raises(ValueError, match=f"--rules {label}: give RULE1/RULE2/RULE3"):
            measure_endpoints.parse_rules(label)
    command = [str(folder / "model.zip"), str(folder / "data.list")]
    with pytest.raises(ValueError, match="--repeat 0: must be at least 1"):
        measure_endpoints.main([*command, "--repeat", "0"])
    with pytest.raises(ValueError, match="--recordings_per_turn 0: must be at least 1"):
        measure_endpoints.main([*command, "--recordings_per_turn", "0"])
    with pytest.raises(ValueError, match="--pauses_within 2 1: give two lengths"):
        measure_endpoints.main([*command, "--pauses_within", "2", "1"])
    with pytest.raises(ValueError, match="commit_seconds must be a positive number"):
        measure_endpoints.main([*command, "--commit_seconds", "0"])
    with pytest.raises(ValueError, match="--pauses 3 1: give two lengths"):
        measure_endpoints.main([*command, "--pauses", "3", "1"])
