"""Evaluation of sets whose references are all empty: words inserted per hour instead of an error rate."""

import json

import pytest
import soundfile
from support.recipes.scripts import run
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM

from wenet_fusion.evaluation.report.content import ConditionErrors
from wenet_fusion.evaluation.report.group_table import group_table
from wenet_fusion.scoring.error_rate import score


@pytest.fixture
def wordless(tone_run, tmp_path):
    """The tones as if they were foreign speech: four recordings without a transcript."""
    records = [json.loads(line) for line in tone_run.dev_list.read_text().splitlines()[:4]]
    changed = (each | {"wav": str(tone_run.dev_list.with_name(each["wav"])), "txt": ""} for each in records)
    (tmp_path / "wordless.list").write_text("".join(json.dumps(each) + "\n" for each in changed))
    return tmp_path / "wordless.list"


def test_inserted_words_are_counted_per_hour(tone_run, wordless, tmp_path, capsys):
    (tmp_path / "words.txt").write_text("one\n")
    options = ("--checkpoint", tone_run.checkpoint, "--data", wordless, "--result_dir", tmp_path / "r")
    options += ("--modes", GREEDY, PREFIX_BEAM, "--chunkings", "8/2", "--grammar", tmp_path / "words.txt")
    assert run("evaluate", *options) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].endswith("  inserted") and "rejected" not in table[0]
    written = json.loads((tmp_path / "r" / "results.json").read_text())
    seconds = sum(soundfile.info(json.loads(line)["wav"]).duration for line in wordless.read_text().splitlines())
    for row, line in zip(written["rows"], table[1:]):
        per_hour = row["insertions"] * 3600 / seconds
        assert row["wer"] is None and row["words"] == 0
        assert row["insertions_per_hour"] == pytest.approx(per_hour, rel=0.01)
        assert f"{row['insertions_per_hour']:.1f} per hour, in {row['utterances_wrong']} of 4 utterances" in line
    plain, within = (row for row in written["rows"] if row["mode"] == PREFIX_BEAM)
    assert 0 <= within["insertions"] < plain["insertions"], "the grammar rejects what it does not hold"
    overall = next((tmp_path / "r").glob("ctc_greedy*/wer")).read_text()
    assert f"Overall -> - % N=0 C=0 S=0 D=0 I={written['rows'][0]['insertions']}" in overall
    assert " h without speech to recognise: " in overall and "inf" not in overall and "nan" not in overall
    assert " per hour" in (tmp_path / "r" / "report.html").read_text()
    assert (tmp_path / "r" / "report.md").read_text().startswith(f"# Insertions of {tone_run.checkpoint.name}\n")


def test_groups_without_words_have_insertions():
    scoring = score({"a": "", "b": "", "c": "one"}, {"a": "one", "b": "", "c": "one"})
    groups = {"a": "noise", "b": "silence", "c": "speech"}
    table = group_table([ConditionErrors("beam", "", scoring, scoring.interval())], groups)
    assert table.header == ("error rate, %", "noise (0 words)", "silence (0 words)", "speech (1 word)")
    assert [cell.text for cell in table.rows[0]] == ["beam", "1 word inserted", "0 words inserted", "0.00"]
    assert "has no rate" in table.explanation
