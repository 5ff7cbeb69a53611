"""tools/measure/measure_hot_words.py: recall, precision and error rates with and without a list, on a model with
known errors.
"""

import json
from pathlib import Path

import measure_hot_words
import numpy as np
import pytest
import soundfile
from measure_hot_words import Occurrences, find
from support.runtime.fake_model import LEVELS, SAMPLE_RATE, TOKENS, save_model, speak

from wenet_fusion.scoring.error_rate import align

# The spoken letters, one frame each, and their loudness: 0.54 and 0.57 lie between b (0.4) and c (0.6).
SPOKEN = {"clear": ("a b", None), "doubtful": ("b", 0.54), "false": ("c", 0.57), "other": ("d c", None)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hot_words")
    save_model(path / "model.zip")
    lines = []
    for key, (text, level) in SPOKEN.items():
        samples = speak(text.replace(" ", ""), frames=1)
        if level is not None:
            samples = samples * np.float32(level / LEVELS[TOKENS.index(text)])
        soundfile.write(path / f"{key}.wav", samples, SAMPLE_RATE, subtype="FLOAT")
        lines.append(json.dumps({"key": key, "wav": f"{key}.wav", "txt": text}))
    (path / "data.list").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (path / "damaged.wav").write_bytes(b"no audio")
    lines.append(json.dumps({"key": "damaged", "wav": "damaged.wav", "txt": "a"}))
    (path / "damaged.list").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(folder: Path, *arguments: str, data: str = "data.list") -> int:
    return measure_hot_words.main([str(folder / "model.zip"), str(folder / data), *arguments])


def test_boosts_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "out.json"
    arguments = ["--hot_word", "b", "--boosts", "2", "6", "--mode", "ctc_prefix_beam_search", "--chunking", "8/2"]
    assert run(folder, *arguments, "--output", str(output)) == 0
    out = capsys.readouterr().out
    assert (
        out
        == f"""{folder}/data.list: 4 utterances, ctc_prefix_beam_search at 8/2, 1 hot words

| boost | recall | precision | F1 | WER | WER of hot words | WER of other words |
|---|--:|--:|--:|--:|--:|--:|
| without | 50.00 % (1/2) | 100.00 % (1/1) | 66.67 % | 16.67 % (1/6) | 50.00 % (1/2) | 0.00 % (0/4) |
| 2 | 100.00 % (2/2) | 100.00 % (2/2) | 100.00 % | 0.00 % (0/6) | 0.00 % (0/2) | 0.00 % (0/4) |
| 6 | 100.00 % (2/2) | 66.67 % (2/3) | 80.00 % | 16.67 % (1/6) | 0.00 % (0/2) | 25.00 % (1/4) |

| hot word: right + wrong | spoken | without | 2 | 6 |
|---|--:|--:|--:|--:|
| b | 2 | 1 + 0 | 2 + 0 | 2 + 1 |
"""
    )
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["hot_words"] == [{"phrase": "b", "boost": 1.5, "source": "--hot_word"}]
    assert [line["boosts"] for line in record["measured"]] == ["without", "2", "6"]
    assert record["measured"][2]["phrases"] == {"b": {"spoken": 2, "written": 3, "right": 2}}
    assert record["measured"][2]["all_words"]["substitutions"] == 1


def test_a_list_with_its_own_boosts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "list.txt").write_text("b\t2\na b\t0.5\n", encoding="utf-8")
    assert run(folder, "--hot_words", str(folder / "list.txt"), "--chunking", "full") == 0
    out = capsys.readouterr().out
    assert "attention_rescoring at full, 2 hot words" in out and "| as listed | 100.00 % (3/3) |" in out


def test_what_is_wrong_is_listed_and_the_rest_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--hot_word", "b=2", "--hot_word", "e", data="damaged.list") == 1
    out, err = capsys.readouterr()
    assert "4 utterances" in out and "| as listed | 100.00 % (2/2) |" in out
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert lines[:2] == [
        "error: --hot_word: hot word 'e': no token is 'e'",
        "error: 1 of 2 hot words cannot be used; going on without them",
    ]
    assert (
        lines[2].startswith("error: damaged: ")
        and lines[3] == "error: 1 utterances could not be read and were left out"
    )
    (folder / "gone.list").write_text(
        (folder / "damaged.list").read_text() + '{"key": "x", "wav": "gone.wav", "txt": "b"}\n'
    )
    assert run(folder, "--hot_word", "b=2", data="gone.list") == 1
    out, err = capsys.readouterr()
    assert "4 utterances" in out and "gone.list:6: there is no audio file" in err
    assert err.endswith("error: 2 utterances could not be read and were left out\n")
    with pytest.raises(ValueError, match="there are no usable hot words; give a list with --hot_words"):
        run(folder)


@pytest.mark.parametrize(
    "phrase, reference, hypothesis, found",
    [
        ("b", "a b c", "a b c", Occurrences(1, 1, 1)),
        ("b", "a b c d", "a c d b", Occurrences(1, 1, 0)),  # found at another place
        ("a b", "a b c", "a x b c", Occurrences(1, 0, 0)),  # split
        ("a b", "a b a b", "a b", Occurrences(2, 1, 1)),
        ("a a", "a a a", "a a a", Occurrences(2, 2, 2)),  # overlapping
        ("b", "a c", "a b", Occurrences(0, 1, 0)),
    ],
)
def test_a_phrase_is_found_where_it_was_spoken(
    phrase: str, reference: str, hypothesis: str, found: Occurrences
) -> None:
    assert find(phrase.split(), align(reference.split(), hypothesis.split()).pairs) == found
