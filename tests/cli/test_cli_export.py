"""The verb export: one command for each format and precision, and the inputs and outputs that it refuses."""

import json

import pytest
import soundfile
from support.recipes.scripts import run
from wenet_fusion_runtime import Recognizer

from wenet_fusion.export.description import MEANINGS
from wenet_fusion.export.flow import TARGETS


def test_export_inspect_and_use(tone_run, tmp_path, capsys):
    exported, picture = tmp_path / "deep/tones.pt", tmp_path / "seen.png"
    assert run("export", tone_run.checkpoint, exported, "--data", tone_run.dev_list, "--num_utterances", 2) == 0
    assert "the best token differs in none of" in capsys.readouterr().out
    assert [path.name for path in exported.parent.iterdir()] == ["tones.pt"]
    texts = []
    for arguments in ((tone_run.checkpoint,), (exported, "--output", picture)):
        assert run("inspect", *arguments, "--frames", 24) == 0
        texts.append(capsys.readouterr().out)
        assert "normalisation: none" in texts[-1]
    table = slice(3, 7)
    assert texts[0].splitlines()[table] == texts[1].splitlines()[table], "the same contexts before and after export"
    assert picture.read_bytes().startswith(b"\x89PNG")
    with Recognizer(exported).create_stream() as stream:
        samples, rate = soundfile.read(tone_run.dev_list.with_name("u000.wav"), dtype="float32")
        stream.accept_waveform(samples, rate)
    assert stream.text == json.loads(tone_run.dev_list.read_text().splitlines()[0])["txt"]


JUDGED = ("--data", "{dev}", "--precision", "int8-dynamic", "--max_wer_increase", "10", "--num_utterances", "10")
COMMANDS = {
    "torchscript": ("--precision", "float16-packed", "--data", "{dev}", "--num_utterances", "2"),
    "onnx": ("--precision", "int8", *JUDGED[:2], *JUDGED[4:]),
    "wenet-onnx": ("--chunking", "8/2", *JUDGED),
    "sherpa-onnx": JUDGED,
    "pt2": ("--data", "{dev}", "--num_utterances", "2"),
}
PRINTED = {
    "torchscript": "float16-packed; no normalisation in the step", "onnx": "int8; no normalisation in the step",
    "wenet-onnx": "decoder_main --onnx_dir", "sherpa-onnx": "--wenet-ctc-num-left-chunks=2", "pt2": "experimental",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("form", TARGETS)
def test_every_format_is_one_command_and_takes_speech(form, tone_run, tmp_path, capsys):
    options = [option.format(dev=tone_run.dev_list) for option in COMMANDS[form]]
    assert run("export", tone_run.checkpoint, tmp_path / "out", "--format", form, *options) == 0
    printed = capsys.readouterr().out
    utterances = 3 if "2" in options else 9
    assert PRINTED[form] in printed and f"frames ({utterances} utterances)" in printed
    assert ("word error rate" in printed) == ("int8" in " ".join(options)) and "unknown" not in printed
    if form == "onnx":
        assert run("inspect", tmp_path / "out", "--frames", 24) == 0
        assert "normalisation: none" in capsys.readouterr().out


def test_int8_without_speech_says_that_its_error_rate_is_unknown(tone_run, tmp_path, capsys):
    arguments = ("--format", "sherpa-onnx", "--precision", "int8-dynamic")
    assert run("export", tone_run.checkpoint, tmp_path / "model.onnx", *arguments) == 0
    assert "its error rate is unknown: give --data" in capsys.readouterr().out


def test_help_says_which_format_has_which_precision(capsys):
    with pytest.raises(SystemExit):
        run("export", "--help")
    printed = " ".join(capsys.readouterr().out.split())
    unbroken = printed.replace(" ", "")  # lines break at hyphens, too
    assert all(f"{name}:{target.purpose}".replace(" ", "") in unbroken for name, target in TARGETS.items())
    assert {name for target in TARGETS.values() for name in target.precisions} == set(MEANINGS)
    for name, forms in (("int8", "torchscript, onnx"), ("float16-packed", "torchscript")):
        assert f"{name} ({forms}): {MEANINGS[name]}" in printed


def test_formats_and_precisions_that_do_not_go_together(tone_run, tmp_path):
    for options, reason in (
        (("--format", "pt2", "--precision", "int8"), "has no precision int8; choose from float32"),
        (("--format", "onnx", "--chunking", "8/2"), "--chunking is for wenet-onnx and sherpa-onnx"),
        (("--precision", "int8"), "int8 needs speech to calibrate its scales on: give --data"),
        (("--data", tone_run.dev_list, "--num_utterances", -1), "--num_utterances -1: take at least 1"),
        (("--max_wer_increase", -1), "--max_wer_increase -1: must lie between 0 and 100 percentage points"),
        (("--format", "sherpa-onnx", "--chunking", "full"), "a left context of at least 1 chunk, such as .*, not full"),
        (("--measure_errors",), "--measure_errors: give the data.list to measure on with --data"),
        (("--ctm", tmp_path / "words.ctm"), "words.ctm: give the data.list that it belongs to"),
    ):
        with pytest.raises(ValueError, match=reason):
            run("export", tone_run.checkpoint, tmp_path / "out", *options)
    assert list(tmp_path.iterdir()) == []


def test_an_export_writes_over_its_own_files_only(tone_run, tmp_path):
    checkpoint = tmp_path / "step.pt"
    checkpoint.write_bytes(tone_run.checkpoint.read_bytes())
    (tmp_path / "units.txt").write_text("<blank> 0\n")
    (tmp_path / "tokens.txt").write_text("<blank> 0\n")
    for output, form, reason in (
        (checkpoint, "torchscript", "is the checkpoint itself"),
        (tmp_path, "onnx", "is a directory: name a file in it"),
        (checkpoint, "wenet-onnx", "is the checkpoint itself"),
        (tmp_path / "units.txt", "wenet-onnx", "is a file: --format wenet-onnx writes a folder"),
        (tmp_path, "wenet-onnx", "units.txt already exists with a different vocabulary"),
        (tmp_path / "tokens.txt", "sherpa-onnx", "is the name of the vocabulary"),
        (tmp_path / "model.onnx", "sherpa-onnx", "tokens.txt already exists with a different vocabulary"),
    ):
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(ValueError, match=reason):
            run("export", checkpoint, output, "--format", form)
        assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_word_timestamps_are_refused_where_a_format_has_none(tone_run, tmp_path):
    ctm = tmp_path / "words.ctm"
    lines = [json.loads(line) for line in tone_run.dev_list.read_text().splitlines()]
    ctm.write_text(
        "".join(
            f"{line['key']} 1 {0.3 * n:.2f} 0.10 {word}\n"
            for line in lines
            for n, word in enumerate(line["txt"].split())
        )
    )
    with pytest.raises(
        ValueError, match="--ctm is for torchscript and onnx: a pt2 file has no place for word timestamps"
    ):
        run(
            "export",
            tone_run.checkpoint,
            tmp_path / "out",
            "--format",
            "pt2",
            "--data",
            tone_run.dev_list,
            "--ctm",
            ctm,
        )
    assert list(tmp_path.iterdir()) == [ctm]
