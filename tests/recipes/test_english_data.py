"""The English recipe's data: nobody is in two sets, and no sentence of a test is in the language model's text."""

import gzip
from pathlib import Path

import divide_speakers
import pytest

from wenet_fusion.data.lists.kaldi import read_table

TRAIN = {"so1-1": "so1", "ls7-1": "ls7", "kathleen-1": "kathleen"}
DEV = {f"so{number}-{take}": f"so{number}" for number in range(10, 15) for take in range(2)}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    for name, speakers in (("train", TRAIN), ("dev", DEV)):
        folder = root / "english" / name
        folder.mkdir(parents=True)
        (folder / "wav.scp").write_text("".join(f"{key} audio/{key}.opus\n" for key in speakers))
        (folder / "text").write_text("".join(f"{key} SENTENCE {key.upper()}\n" for key in speakers))
        (folder / "utt2spk").write_text("".join(f"{key} {speaker}\n" for key, speaker in speakers.items()))
    for name, speakers in (("train-clean-100", (19, 26)), ("dev-clean", (84, 85, 86))):
        for speaker in speakers:
            chapter = root / "LibriSpeech" / name / str(speaker) / "5"
            chapter.mkdir(parents=True)
            (chapter / f"{speaker}-5.trans.txt").write_text(f"{speaker}-5-0000 A BOOK OF {speaker}\n")
    (root / "text").mkdir()
    with gzip.open(root / "text" / "free.txt.gz", "wt") as file:
        file.write("A FREE SENTENCE\nSENTENCE SO10-0\n\nA BOOK OF 85\n")
    return root


def test_speakers_are_divided(corpus: Path, tmp_path: Path) -> None:
    assert divide_speakers.main([str(corpus), str(tmp_path / "data")]) == 0
    speakers = {name: read_table(tmp_path / "data" / name / "utt2spk") for name in ("train", "dev", "test")}
    sets = [set(found.values()) for found in speakers.values()]
    assert sets == [
        {"so1", "ls7", "kathleen", "ls19", "ls26"}, {"so10", "so12", "so14", "ls84", "ls86"}, {"so11", "so13", "ls85"},
    ]  # fmt: skip
    for name, found in speakers.items():
        paths, texts, groups = (
            read_table(tmp_path / "data" / name / file) for file in ("wav.scp", "text", "utt2group")
        )
        assert list(paths) == list(texts) == list(groups) == list(found) == sorted(found)
        assert all(Path(path).is_absolute() for path in paths.values())
    assert paths["85-5-0000"] == str(corpus / "LibriSpeech" / "dev-clean" / "85" / "5" / "85-5-0000.flac")
    assert paths["so11-0"] == str(corpus / "english" / "audio" / "so11-0.opus")
    assert set(groups.values()) == {"speechocean762", "librispeech"}
    lines = (tmp_path / "data" / "text" / "lm.txt").read_text().splitlines()
    assert "A FREE SENTENCE" in lines and "SENTENCE SO1-1" in lines and "A BOOK OF 19" in lines
    assert not {"SENTENCE SO10-0", "A BOOK OF 85", ""} & set(lines)


def test_a_speaker_in_two_sets_is_refused(corpus: Path, tmp_path: Path) -> None:
    with (corpus / "english" / "train" / "utt2spk").open("a") as file:
        file.write("so11-9 so11\n")
    for name, value in (("wav.scp", "a.opus"), ("text", "A")):
        with (corpus / "english" / "train" / name).open("a") as file:
            file.write(f"so11-9 {value}\n")
    with pytest.raises(ValueError, match="speakers of the training set are also in dev: so11"):
        divide_speakers.main([str(corpus), str(tmp_path / "data")])


def test_a_folder_without_the_corpus_says_what_is_expected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert divide_speakers.main([str(tmp_path), str(tmp_path / "data")]) == 1
    assert "no english/train/wav.scp in it\nFOLDER holds" in capsys.readouterr().err


def test_an_utterance_without_a_speaker_is_named(corpus: Path, tmp_path: Path) -> None:
    (corpus / "english" / "dev" / "utt2spk").write_text("so10-0 so10\n")
    with pytest.raises(ValueError, match="dev: so10-1 of wav.scp is missing in text or utt2spk"):
        divide_speakers.main([str(corpus), str(tmp_path / "data")])
