"""tools/measure/tune_language_model.py chooses weights on one set and measures on another, with streamed texts."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tune_language_model
from support.runtime.fake_model import SAMPLE_RATE, LoudnessModel, save_model
from test_shallow_fusion import say, train
from wenet_fusion_runtime import DecodingOptions, Recognizer, load_language_model
from wenet_fusion_runtime.search.modes import PREFIX_BEAM

from wenet_fusion.scoring.error_rate import score


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four similar words, a language model of their order, dev.list and test.list."""
    path = tmp_path_factory.mktemp("tune")
    save_model(path / "model.pt", module=LoudnessModel(sharpness=100.0))
    rng = np.random.default_rng(0)
    train(path, "".join(say(rng, 0.0).text + "\n" for _ in range(100)), order=2)
    for name in ("dev", "test"):
        lines = []
        for number in range(12):
            spoken = say(rng, 0.15)
            soundfile.write(path / f"{name}{number}.wav", spoken.samples, SAMPLE_RATE, subtype="FLOAT")
            lines.append(json.dumps({"key": str(number), "wav": f"{name}{number}.wav", "txt": spoken.text}))
        (path / f"{name}.list").write_text("\n".join(lines) + "\n")
    return path


def tune(folder: Path, *options: str, test: str = "test.list") -> int:
    arguments = [folder / "model.pt", folder / "lm.arpa", "--dev", folder / "dev.list", "--test", folder / test]
    return tune_language_model.main([*map(str, arguments), "--output", str(folder / "out.json"), *options])


def streamed_error_rate(folder: Path, name: str, options: DecodingOptions) -> float:
    """Return the errors on a set with chunks 4/4, utterance by utterance."""
    recognizer, texts, found = Recognizer(folder / "model.pt", options), {}, {}
    for line in (folder / f"{name}.list").read_text().splitlines():
        record = json.loads(line)
        with recognizer.create_stream(4, 4) as stream:
            stream.accept_waveform(soundfile.read(folder / record["wav"], dtype="float32")[0])
        texts[record["key"]], found[record["key"]] = record["txt"], stream.text
    return score(texts, found).total.rate


def test_the_best_of_the_dev_set_is_judged_on_the_test_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_language_model(folder / "lm.arpa")
    plain = DecodingOptions(PREFIX_BEAM)
    grid = {
        (weight, bonus): DecodingOptions(PREFIX_BEAM, language_model=model, lm_weight=weight, word_bonus=bonus)
        for weight in (0.1, 2.0)
        for bonus in (0.0, 4.0)
    }
    assert tune(folder, "--chunkings", "4/4", "--weights", "2", "0.1", "--bonuses", "4", "0") == 0
    content = json.loads((folder / "out.json").read_text())
    (row,) = content["rows"]
    rates = {pair: streamed_error_rate(folder, "dev", options) for pair, options in grid.items()}
    best = min(rates, key=rates.get)
    assert (row["lm_weight"], row["word_bonus"]) == best == (2.0, 0.0) and content["skipped"] == []
    assert row["dev_with"] == rates[best] and row["dev_without"] == streamed_error_rate(folder, "dev", plain)
    assert row["test_with"] == streamed_error_rate(folder, "test", grid[best])
    assert row["test_without"] == streamed_error_rate(folder, "test", plain) > 4 * row["test_with"]
    line = f"| 4/4 | {100 * row['dev_without']:.2f} | {100 * row['dev_with']:.2f} | {100 * row['test_without']:.2f} |"
    assert line in capsys.readouterr().out and line in (folder / "out.md").read_text()


def test_several_test_sets_are_measured_with_one_choice(folder: Path) -> None:
    options = ("--weights", "2", "--bonuses", "0", "--chunkings", "4/4", "--test")
    lists = [str(folder / name) for name in ("test.list", "dev.list")]
    assert tune(folder, *options, *lists) == 0
    first, second = json.loads((folder / "out.json").read_text())["rows"]
    assert (first["test"], second["test"]) == tuple(lists)
    assert second["test_with"] == second["dev_with"] == first["dev_with"]
    assert f"| {lists[1]} |" in (folder / "out.md").read_text()


def test_chinese_is_counted_in_characters(folder: Path) -> None:
    (folder / "chinese.list").write_text((folder / "test.list").read_text().replace('"txt": "', '"txt": "一二三四'))
    options = ("--weights", "2", "--bonuses", "0", "--chunkings", "4/4", "--test", str(folder / "chinese.list"))
    assert tune(folder, *options) == 0
    (row,) = json.loads((folder / "out.json").read_text())["rows"]
    texts = [json.loads(line)["txt"] for line in (folder / "test.list").read_text().splitlines()]
    deleted, words = 4 * len(texts), len(" ".join(texts).split())
    assert deleted / (deleted + words) <= row["test_with"] < 1, "four characters are deleted in each utterance"


def test_insertions_are_counted_where_a_set_has_no_words(folder: Path) -> None:
    records = [json.loads(line) | {"txt": ""} for line in (folder / "test.list").read_text().splitlines()]
    (folder / "wordless.list").write_text("".join(json.dumps(record) + "\n" for record in records))
    options = ("--weights", "2", "--bonuses", "0", "--chunkings", "4/4")
    assert tune(folder, *options, test="wordless.list") == 0
    (row,) = json.loads((folder / "out.json").read_text())["rows"]
    assert row["test_without"] is None and row["test_with"] is None
    assert row["insertions_without"] >= len(records) and row["insertions_with"] >= len(records)
    cells = f"| {row['insertions_without']} inserted | {row['insertions_with']} inserted |"
    assert cells in (folder / "out.md").read_text()
    with pytest.raises(ValueError, match="no utterance of --dev has words"):
        tune(folder, *options, "--dev", str(folder / "wordless.list"))


def test_audio_that_cannot_be_read_is_listed_and_the_rest_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "lost.wav").write_bytes(b"no audio at all")
    lines = (folder / "test.list").read_text()
    lines += '{"key": "lost", "wav": "lost.wav", "txt": "a d", "duration": 1.0}\n'
    lines += '{"key": "gone", "wav": "gone.wav", "txt": "a"}\n'
    (folder / "damaged.list").write_text(lines)
    assert tune(folder, "--weights", "2", "--bonuses", "0", test="damaged.list") == 1
    error = capsys.readouterr().err
    assert "lost: " in error and "error: 2 utterances could not be read and were left out" in error
    content = json.loads((folder / "out.json").read_text())
    assert "damaged.list:14: there is no audio file" in content["skipped"][0] and content["skipped"][1].startswith(
        "lost: "
    )
    assert [row["chunking"] for row in content["rows"]] == ["8/2"], "the model's own chunks"
    (folder / "lost.list").write_text('{"key": "lost", "wav": "lost.wav", "txt": "a d", "duration": 1.0}\n')
    with pytest.raises(ValueError, match="no utterance could be read; the first problem: .*lost.wav"):
        tune(folder, "--chunkings", "4/4", test="lost.list")


def test_chunkings_that_the_model_does_not_know_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="chunk 5 with left context 4: .* choose one of 4/4, 8/2"):
        tune(folder, "--chunkings", "5/4")
