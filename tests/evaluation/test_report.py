"""Reports: complete, escaped, self-contained, with long correct runs visibly shortened."""

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recipes.scripts import run

from wenet_fusion.evaluation.report.content import (
    ConditionErrors,
    Fact,
    Gap,
    Report,
    count_table,
    deletion_table,
    interval_text,
    percent,
    rate_table,
    worst_utterances,
)
from wenet_fusion.evaluation.report.group_table import group_table, read_groups
from wenet_fusion.evaluation.report.html import page, rate_chart
from wenet_fusion.evaluation.report.markdown import markdown, table_lines
from wenet_fusion.evaluation.report.streaming_table import read_streams, stream_table
from wenet_fusion.evaluation.report.write import write_report
from wenet_fusion.scoring.error_rate import AlignedPair, ErrorCounts, Interval, score
from wenet_fusion.scoring.transcripts import Counting

REFERENCES = {
    "u1": "one two three", "u2": "<script>alert(1)</script> & |pipe|", "u3": "five", "u4": " ".join(map(str, range(40)))
}  # fmt: skip
GOOD = {**REFERENCES, "u1": "one too three"}
BAD = {
    "u1": "one three",
    "u2": "<b>",
    "u3": "five five",
    "u4": " ".join(str(n) for n in range(40) if n not in (20, 39)),
}


def condition(search, chunking, hypotheses, factor=0.01):
    scoring = score(REFERENCES, hypotheses)
    return ConditionErrors(search, chunking, scoring, scoring.interval(), factor)


@pytest.fixture
def report():
    conditions = (
        condition("greedy", "full", GOOD), condition("greedy", "16/4", BAD), condition("beam", "full", BAD),
    )  # fmt: skip
    facts = (Fact("commit", "abc<def>"), Fact("machine", "a 2-core one"))
    return Report("A <title>", "about it", Counting(), conditions, facts, ("u9: has no audio",))


class Page(HTMLParser):
    """Text by enclosing tag and class; fails on tags that do not match."""

    EMPTY = {"meta", "wbr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.tags, self.attributes = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.EMPTY:
            self.open.append((tag, dict(attributes).get("class") or ""))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        if text.strip():
            self.texts.append((self.open[-1], text.strip()))


def test_the_page_fetches_nothing_and_runs_nothing(report):
    found = Page(page(report))
    assert not {"script", "link", "img", "iframe", "svg"} & set(found.tags)
    names = {name for name, _ in found.attributes}
    assert not {"src", "href"} & names and not any(name.startswith("on") for name in names)
    assert "url(" not in page(report) and "://" not in page(report) and "@import" not in page(report)
    assert ("name", "viewport") in found.attributes and "prefers-color-scheme: dark" in page(report)


def test_transcripts_are_text(report):
    """A text that is not escaped at one place would close or open tags, or run a script."""
    texts = [text for _, text in Page(page(report)).texts]
    assert "<script>alert(1)</script>" in texts and "abc<def>" in texts and texts.count("A <title>") == 2


def test_errors_are_coloured_by_kind(report):
    text = page(report)
    for kind, said, recognised in (
        ("substituted", "two", "too"), ("deleted", "two", "&nbsp;"), ("deleted", "20", "&nbsp;"),
        ("inserted", "&nbsp;", "five"), ("", "one", "one"),
    ):  # fmt: skip
        assert f'<span class="pair {kind}"><span>{said}</span><span>{recognised}</span></span>' in text


@given(st.lists(st.sampled_from([True, True, True, True, True, True, True, False]), max_size=80))
def test_nothing_is_lost_in_gaps(right):
    """Shown words and gaps add up, every error is shown, and gaps lie far from errors."""
    words = [f"w{n}" for n in range(len(right))]
    hypothesis = [word if good else "x" for word, good in zip(words, right)]
    scoring = score({"u": " ".join(words)}, {"u": " ".join(hypothesis)})
    utterances = worst_utterances(ConditionErrors("s", "", scoring, None))
    assert len(utterances) == (not all(right))
    for utterance in utterances:
        position, nearest_error = 0, [n for n, good in enumerate(right) if not good]
        for piece in utterance.pieces:
            if isinstance(piece, Gap):
                inside = range(position, position + piece.words)
                assert all(abs(n - error) > 6 for n in inside for error in nearest_error)
                position += piece.words
            else:
                assert piece == AlignedPair(words[position], hypothesis[position])
                position += 1
        assert position == len(words)


def test_tables(report):
    assert table_lines(rate_table(report))[:4] == [
        "| WER, % of 47 words | full | 16/4 |",
        "|---|--:|--:|",
        f"| greedy | **2.13** ({interval(0)}) | 14.89 ({interval(1)}) |",
        f"| beam | 14.89 ({interval(1)}) | \u2013 |",
    ]
    assert [cell.text for cell in count_table(report).rows[1]] == ["greedy 16/4", "7", "1", "5", "1", "4", "0.0100"]
    table = deletion_table(report)
    assert table.header == ("deleted, % of the words", "1 (1 utt.)", "2\u20133 (2 utt.)", "32\u201363 (1 utt.)")
    assert [cell.text for cell in table.rows[1]] == ["greedy 16/4", "0.00", "50.00", "5.00"]
    untimed = [item._replace(real_time_factor=None) for item in report.conditions]
    assert len(count_table(Report("", "", Counting(), tuple(untimed), ())).header) == 6


def interval(number):
    low, high = score(REFERENCES, (GOOD, BAD)[number]).interval()
    return f"{100 * low:.2f}\u2013{100 * high:.2f}"


def test_markdown(report):
    text = markdown(report)
    assert "u1: 33.33 % N=3 C=2 S=1 D=0 I=0\nlab: one two three\nrec: one too three\n         S\n```" in text
    assert "## Worst utterances of greedy full\n\nMost frequent errors: two \u2192 too (1)." in text
    assert "## Problems: 1\n\n```\nu9: has no audio\n```" in text and text.endswith("- machine: a 2-core one\n")
    worst = markdown(Report("t", "a", Counting(), (condition("beam", "", BAD),), ()))
    assert "lab: ... 14 ... 14 15 16 17 18 19 20 21 " in worst and " 26 ... 6 ... 33 34 " in worst
    long = {"u": " ".join(["reference"] * 40)}
    scoring = score(long, {"u": ""})
    text = markdown(Report("t", "a", Counting(), (ConditionErrors("beam", "", scoring, scoring.interval()),), ()))
    lines = [line for line in text.splitlines() if line.startswith("lab: ")]
    assert len(lines) == 4 and max(map(len, lines)) < 110 and sum(line.count("reference") for line in lines) == 40


def test_cells_of_a_table_hold_anything():
    table = table_lines(rate_table(Report("t", "a", Counting(), (condition("a|b", "c|d", BAD),), ())))
    assert table[0].endswith("| c\\|d |") and table[2].startswith("| a\\|b | **14.89** (")


def test_markdown_of_no_error():
    right = condition("beam", "", REFERENCES)
    text = markdown(Report("t", "a", Counting(), (right,), ()))
    assert "No utterance is wrong." in text and "No utterance is wrong." in page(
        Report("t", "a", Counting(), (right,), ())
    )


def test_empty_references():
    """Silence only: there is no rate, but there are inserted words."""
    scoring = score({"s": "", "t": ""}, {"s": "one", "t": ""})
    report = Report(
        "t",
        "a",
        Counting(),
        (ConditionErrors("beam", "full", scoring, None), ConditionErrors("x", "full", scoring, None)),
        (),
    )
    assert "| beam | **1** |" in markdown(report) and "1 word inserted" in page(report)
    hourly = tuple(item._replace(insertions_per_hour=7.5) for item in report.conditions)
    report = Report("t", "a", Counting(), hourly, ())
    assert "| beam | **1** (7.5 per hour) |" in markdown(report) and "1 word inserted, 7.5 per hour" in page(report)
    for text in (page(report), markdown(report)):
        assert "WER" not in text and "Deletions" not in text and "0 words" not in text


@given(st.lists(st.floats(0, 9.9), min_size=2, max_size=6))
def test_the_chart_keeps_order_and_stays_on_its_scale(rates):
    scoring, counts = score({"u": "one"}, {"u": "one"}), [round(20000 * rate) for rate in rates]
    conditions = [
        ConditionErrors(
            str(n), "", scoring._replace(total=ErrorCounts(count, 0, 0, 20000)), Interval(count / 22000, count / 18000)
        )
        for n, count in enumerate(counts)
    ]
    chart = rate_chart(conditions)
    if chart is None:
        assert not any(counts)
        return
    assert 2 <= len(chart.ticks) <= 9 and [tick.place for tick in chart.ticks] == sorted(
        {tick.place for tick in chart.ticks}
    )
    for whisker in chart.whiskers:
        assert 0 <= whisker.low <= whisker.rate + 0.02 and whisker.low + whisker.width <= 100.02
    places = [chart.whiskers[n].rate for n in sorted(range(len(counts)), key=lambda n: counts[n])]
    assert places == sorted(places)


# ---- streams


STREAM = {
    "chunking": "16/4", "mode": "ctc_greedy_search", "wer": 0.0113, "same_tokens": 4, "compared": 5,
    "real_time_factor": 0.0123, "chunk_ms": {"p50": 1.0, "p90": 2.0, "p99": 3.0}, "finalisation_ms": None,
    "first_text_seconds": {"p50": 0.5, "p90": 0.6, "p99": 0.7}, "emission_delay_seconds": None,
    "start_errors_seconds": {"mean": 0.05, "p50": 0.04, "p95": 0.1, "bias": 0.0}, "end_errors_seconds": None,
    "upwr": 0.0123,
}  # fmt: skip


def test_streams_stand_in_the_report(report, tmp_path):
    (tmp_path / "stream.json").write_text(json.dumps(STREAM))
    lines = table_lines(stream_table(read_streams([tmp_path / "stream.json"])))
    assert "| computation per chunk | 1.0 / 2.0 / 3.0 ms |" in lines and "| last sample to final text | - |" in lines
    assert "| error of word starts, mean / 95 % | 0.050 / 0.100 s |" in lines
    assert "| unstable partial words, per 100 final words | 1.23 |" in lines
    assert "| expected calibration error of word confidence | - |" in lines
    (tmp_path / "reliability.json").write_text('{"expected_calibration_error": 0.0217}')
    lines = table_lines(stream_table(read_streams([tmp_path / "stream.json"])))
    assert "| expected calibration error of word confidence | 0.022 |" in lines
    for content in ("[]", "{}", "{", json.dumps({**STREAM, "chunk_ms": 3})):
        (tmp_path / "stream.json").write_text(content)
        with pytest.raises(ValueError, match="stream.json is no stream.json of tools/measure/measure_streaming.py"):
            read_streams([tmp_path / "stream.json"])


def test_groups_have_the_error_rates_of_their_utterances(report, tmp_path):
    (tmp_path / "utt2group").write_text("u3 others\nu1 some\nu2 some\nu4 others\nelsewhere third\n")
    table = group_table(report.conditions, read_groups(tmp_path / "utt2group", list(REFERENCES)))
    part = {key: text for key, text in REFERENCES.items() if key in ("u3", "u4")}
    others = score(part, BAD)
    assert table.header == ("error rate, %", "others (41 words)", "some (6 words)")
    characters = group_table(report.conditions, dict.fromkeys(REFERENCES, "all"), "characters")
    assert characters.header[1] == "all (47 characters)"
    assert [row[0].text for row in table.rows] == ["greedy full", "greedy 16/4", "beam full"]
    cell = table.rows[1][1]
    assert (cell.text, cell.note) == (percent(others.total.rate), interval_text(others.interval()))
    assert percent(3 / 41) == cell.text != table.rows[1][2].text
    assert "has no rate" not in characters.explanation
    (tmp_path / "utt2group").write_text("u3 others\nu1 some\nu2\n")
    with pytest.raises(
        ValueError, match="utt2group: 2 of 4 utterances have no group, such as u2; add lines 'key group'"
    ):
        read_groups(tmp_path / "utt2group", list(REFERENCES))


def test_scores_of_some_utterances_keep_their_missing_keys():
    scoring = score(REFERENCES, {"u1": "one", "x": "y"})
    part = scoring.part(["u1", "u3"])
    assert part.total == score({key: REFERENCES[key] for key in ("u1", "u3")}, {"u1": "one"}).total
    assert part.missing == ("u3",) and part.extra == () and [each.key for each in part.utterances] == ["u1", "u3"]


# ---- the command


def test_score_writes_a_report_and_names_missing_keys(tmp_path, capsys):
    (tmp_path / "ref").write_text("a One, two\nb \u4f60\u597d WORLD\nc x\n", encoding="utf-8")
    (tmp_path / "hyp").write_text("a one two\nb \u4f60 world\nd x\n", encoding="utf-8")
    options = ("--unit", "mixed", "--ignore_case", "--ignore_punctuation")
    files = (tmp_path / "ref", tmp_path / "hyp")
    assert run("score", *files, *options, "--report", tmp_path / "deep/r.html", "--brief") == 1
    printed = capsys.readouterr()
    assert "Overall -> 33.33 % N=6 C=4 S=0 D=2 I=0\n95 % interval -> " in printed.out and "utt:" not in printed.out
    assert printed.err.splitlines() == [
        "2 keys are in only one of the two files:",
        f"c is missing in {tmp_path / 'hyp'}: all its words and characters count as deleted",
        f"d is missing in {tmp_path / 'ref'}: it is not counted",
    ]
    texts = [text for _, text in Page((tmp_path / "deep/r.html").read_text(encoding="utf-8")).texts]
    assert "words and characters, case and punctuation ignored" in texts and "33.33 %" in texts
    (tmp_path / "hyp").write_text("a one two\nb \u4f60\u597d world\nc X\n", encoding="utf-8")
    assert run("score", *files, *options, "--report", tmp_path / "r.md") == 0
    printed = capsys.readouterr()
    assert "utt: b" in printed.out and printed.err == "" and "No utterance is wrong." in (tmp_path / "r.md").read_text()


def test_a_report_of_another_kind_is_refused_before_any_work(report, tmp_path):
    with pytest.raises(ValueError, match=r"r.pdf: a report is a file named \*.html or \*.md"):
        run("score", tmp_path / "gone", tmp_path / "gone", "--report", tmp_path / "r.pdf")
    with pytest.raises(ValueError, match="r.txt: a report is"):
        write_report(report, tmp_path / "r.txt")
