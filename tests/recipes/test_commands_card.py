"""The model card of the commands recipe: what a model does on each set, and beside other systems."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import write_model_card
from support.model.tones import ToneRun


@pytest.fixture
def data(tone_run: ToneRun, tmp_path: Path) -> Path:
    """A set with words, groups and speakers, and a set of noise."""
    (tmp_path / "data" / "tones").mkdir(parents=True)
    (tmp_path / "data" / "noise").mkdir()
    records = [json.loads(line) for line in tone_run.dev_list.read_text().splitlines()[:9]]
    lines = (json.dumps(each | {"wav": str(tone_run.dev_list.with_name(each["wav"]))}) for each in records)
    (tmp_path / "data" / "tones" / "data.list").write_text("".join(f"{line}\n" for line in lines))
    keys = [each["key"] for each in records]
    groups = "".join(f"{key} {'early' if number < 4 else 'late'}\n" for number, key in enumerate(keys))
    (tmp_path / "data" / "tones" / "utt2group").write_text(groups)
    (tmp_path / "data" / "tones" / "utt2spk").write_text(
        "".join(f"{key} {number // 3}\n" for number, key in enumerate(keys))
    )
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "noise.wav", rng.uniform(-0.01, 0.01, 8000), 8000)
    record = {"key": "noise", "wav": str(tmp_path / "noise.wav"), "txt": ""}
    (tmp_path / "data" / "noise" / "data.list").write_text(json.dumps(record) + "\n")
    return tmp_path / "data"


def table(path: Path) -> dict[str, list[str]]:
    """Return the cells of the card's table by the first one."""
    rows = [line.strip("|").split("|") for line in path.read_text().splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_a_card_has_sets_groups_grammars_and_other_systems(tone_model: Path, data: Path, tmp_path: Path) -> None:
    records = [json.loads(line) for line in (data / "tones" / "data.list").read_text().splitlines()]
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "tones").write_text("".join(f"{each['key']}\n" for each in records))  # it hears nothing
    (tmp_path / "phrases").write_text("".join(f"{each['txt']}\n" for each in records))
    (tmp_path / "about.md").write_text("## Data\n\nTones.\n")
    command = [tone_model, "--data", data, "--chunk", "8", "--sets", "tones", "noise", "--others"]
    command += [f"deaf={tmp_path / 'others'}", "--grammars", f"tones={tmp_path / 'phrases'}"]
    command += ["--about", tmp_path / "about.md", "--output", tmp_path / "card.md"]
    assert write_model_card.main([str(each) for each in command]) == 0
    words, found = sum(len(each["txt"].split()) for each in records), table(tmp_path / "card.md")
    assert found["set"] == ["speakers", "utterances", "words", "this model", "deaf"]
    own = "0.0 % (0.0 to 0.0)"
    assert found["tones"] == ["3", "9", str(words), own, "100.0 % (100.0 to 100.0)"]
    assert found["tones, within a grammar"] == ["3", "9", str(words), own, ""]
    assert [found[f"tones: {group}"][1] for group in ("early", "late")] == ["4", "5"]
    assert found["noise"][:3] == ["", "1", "0"] and found["noise"][3].endswith("words per hour")
    assert "## Data\n\nTones." in (tmp_path / "card.md").read_text()


def test_the_thresholds_text_is_rejected_and_named(tone_model: Path, data: Path, tmp_path: Path) -> None:
    command = [tone_model, "--data", data, "--chunk", "8", "--sets", "tones", "--confidence_threshold", "1", "--output"]
    assert write_model_card.main([str(each) for each in [*command, tmp_path / "card.md"]]) == 0
    assert table(tmp_path / "card.md")["tones"][3] == "100.0 % (100.0 to 100.0)"
    assert "the text of a segment is rejected if its confidence is below 1" in (tmp_path / "card.md").read_text()


@pytest.mark.parametrize(
    "option, value", [("--grammars", "noise=nowhere"), ("--others", "deaf"), ("--grammars", "other=card.md")]
)
def test_wrong_pairs_are_refused(option: str, value: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "card.md").touch()
    command = [
        "model.zip",
        "--data",
        str(data),
        "--sets",
        "noise",
        option,
        value.replace("card", str(tmp_path / "card")),
    ]
    with pytest.raises(ValueError, match=f"{option} .*: is not NAME=PATH with an existing path"):
        write_model_card.main([*command, "--output", str(tmp_path / "new.md")])
