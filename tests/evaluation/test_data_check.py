"""The check of a data list: each kind of problem is named with its line, and sampling looks at every file."""

import json
import sys
from functools import partial

import numpy as np
import pytest
import soundfile

from wenet_fusion.cli.__main__ import main
from wenet_fusion.evaluation.data_check import format_histogram
from wenet_fusion.evaluation.data_pictures import draw_distributions
from wenet_fusion.evaluation.data_report import Distribution
from wenet_fusion.evaluation.inspection import draw_influence

RATE = 8000
CONFIG = """tokenizer: {units: units.txt, split_with_space: true}
model: {frontend: {sample_rate: 8000, num_mel_bins: 40}}
training: {max_batch_seconds: 3}
"""


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Ten utterances of 1 s; the list states their durations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "units.txt").write_text("<blank> 0\n<unk> 1\n<sos/eos> 2\none 3\ntwo 4\n")
    (tmp_path / "c.yaml").write_text(CONFIG)
    for number in range(10):
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, RATE + 100 * number)
        soundfile.write(f"u{number}.wav", samples, RATE, subtype="PCM_16")

    def write(**changes):
        lines = []
        for number in range(10):
            line = {"key": f"u{number}", "wav": str(tmp_path / f"u{number}.wav"), "txt": "one"}
            line["duration"] = 1 + number / 80
            lines.append(json.dumps(line | changes.get(f"u{number}", {})) + "\n")
        (tmp_path / "data.list").write_text("".join(lines))

    return write


def check(capsys, *options):
    status = main(["check", "data", "data.list", "--config", "c.yaml", *options])
    return status, capsys.readouterr()


def test_a_good_list(corpus, capsys):
    corpus(u3={"txt": ""}, u4={"txt": "one two"})
    status, (out, err) = check(capsys)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "data.list: 10 utterances, 0.00 h usable; 0 unusable"
    assert lines[1] == "decoded: 10 of 10 utterances, 0 with another duration than stated"
    assert lines[2].startswith("transcripts: 1 empty, the longest has 2 tokens (data.list:5: u4); 0 tokens (0 %)")
    assert lines[3].startswith("batches: 5, the largest 2.2 s (training.max_batch_seconds: 3), padding ")
    assert "the longest utterance has 1.11 s (data.list:10: u9)" in lines[3]
    assert [line.split(":")[0] for line in lines if "mean" in line] == [
        "duration (s)",
        "transcript (tokens)",
        "speaking rate (characters per second)",
    ]


def test_every_kind_of_problem_has_its_line(corpus, capsys, tmp_path):
    corpus(
        u0={"duration": 0.5},
        u1={"txt": "one seven"},
        u2={"txt": "one " * 60},
        u3={"wav": str(tmp_path / "gone.wav")},
        u4={"duration": 600.0},
        u5={"wav": str(tmp_path / "u6.wav"), "duration": 1 + 6 / 80},
        u7={"key": "u6"},
        u8={"duration": "long"},
    )
    status, (out, err) = check(capsys)
    assert status == 1 and "5 utterances" in out and "; 5 unusable" in out and "1 with another duration" in out
    assert "1 tokens (10 %) are not in the vocabulary: 'seven' 1" in out or "'seven' 1" in out
    for message in (
        "note: 1 utterance differs from the listed duration: data.list:1: u0: ",
        "note: 1 of 8 utterances are beyond data.filters.longest_seconds and are left out: data.list:5: u4: lasts 600",
        "note: 1 utterance shares the audio with another: data.list:7: u6 and u5",
        "note: 1 utterance shares the transcript and duration with another: data.list:7: u6 and u5",
        "skipped data.list:2: u1: 'seven' in 'one seven'",
        "skipped data.list:3: u2: ",
        "skipped data.list:4: u3: ",
        "skipped data.list:8: key 'u6' is already in data.list:7",
        "skipped data.list:9: duration must be a number",
    ):
        assert message in err, (message, err)


def test_sampling_decodes_a_part_and_looks_for_every_file(corpus, capsys, tmp_path):
    corpus(u3={"wav": str(tmp_path / "gone.wav")})
    (tmp_path / "u5.wav").write_bytes(b"RIFF")
    assert "u5: " in check(capsys)[1].err
    status, (out, err) = check(capsys, "--decode", "none")
    assert status == 1 and "decoded: 0 of 10" in out
    assert err == f"skipped data.list:4: u3: {tmp_path}/gone.wav: no such audio file\n"
    status, (out, err) = check(capsys, "--decode", "2")
    assert "decoded: 2 of 10" in out and "u5: " in err, "the first and the sixth"
    with pytest.raises(SystemExit):
        check(capsys, "--decode", "half")


def test_the_picture(corpus, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    corpus()
    assert check(capsys, "--decode", "none", "--png", "h.png")[0] == 0
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_matplotlib_is_reported_with_the_option(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw, option in ((draw_distributions, "--png"), (partial(draw_influence, frame_seconds=0.04), "--output")):
        with pytest.raises(
            ValueError, match=f"drawing needs matplotlib: pip install matplotlib, or leave out {option}"
        ):
            draw([], path=tmp_path / "h.png")


def test_histograms_count_every_value():
    values = np.random.default_rng(0).uniform(1, 20, 500)
    lines = format_histogram(Distribution("duration", "s", values)).splitlines()
    assert sum(int(line.split()[3]) for line in lines[1:]) == 500
    edges = [(float(line.split()[0]), float(line.split()[2])) for line in lines[1:]]
    assert edges == [(1.0 * n, 1.0 * n + 1) for n in range(1, 20)], "round numbers"
    assert format_histogram(Distribution("duration", "s", np.ones(3))).splitlines()[0].endswith("mean 1, median 1")
