"""The English recipe: no speaker is in two sets, and no test sentence is in the text of the language model."""

import gzip
from pathlib import Path

import divide_speakers
import pytest

from wenet_fusion.data.lists.kaldi import read_table

TRAIN = {"so1-1": "so1", "ls7-1": "ls7", "kathleen-1": "kathleen"}
DEV = {f"so{number}-{take}": f"so{number}" for number in range(10, 15) for take in range(2)}
BOOKS = {f"{speaker}-5-0000": str(speaker) for speaker in (84, 85, 86)}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Folders in Kaldi's format: train and dev with relative paths; some speakers have LibriSpeech's numbers."""
    root = tmp_path / "corpus"
    for name, speakers in (("train", TRAIN), ("dev", DEV), ("books", BOOKS)):
        folder = root / name
        folder.mkdir(parents=True)
        start = "/flac/" if name == "books" else "audio/"
        (folder / "wav.scp").write_text("".join(f"{key} {start}{key}.opus\n" for key in speakers))
        (folder / "text").write_text("".join(f"{key} SENTENCE {key.upper()}\n" for key in speakers))
        (folder / "utt2spk").write_text("".join(f"{key} {speaker}\n" for key, speaker in speakers.items()))
    with gzip.open(root / "free.txt.gz", "wt") as file:
        file.write("A FREE SENTENCE\nSENTENCE SO10-0\n\nSENTENCE 85-5-0000\n")
    return root


def divide(corpus: Path, output: Path) -> int:
    folders = ["--train", corpus / "train", "--held_out", corpus / "dev", corpus / "books"]
    return divide_speakers.main([*map(str, folders), "--text", str(corpus / "free.txt.gz"), "--output", str(output)])


def test_speakers_are_divided(corpus: Path, tmp_path: Path) -> None:
    assert divide(corpus, tmp_path / "data") == 0
    speakers = {name: read_table(tmp_path / "data" / name / "utt2spk") for name in ("train", "dev", "test")}
    sets = [set(found.values()) for found in speakers.values()]
    assert sets == [{"so1", "7", "kathleen"}, {"so10", "so12", "so14", "84", "86"}, {"so11", "so13", "85"}]
    for name, found in speakers.items():
        paths, texts, groups = (
            read_table(tmp_path / "data" / name / file) for file in ("wav.scp", "text", "utt2group")
        )
        assert list(paths) == list(texts) == list(groups) == list(found) == sorted(found)
    assert paths["85-5-0000"] == "/flac/85-5-0000.opus" and paths["so11-0"] == str(corpus / "audio" / "so11-0.opus")
    assert set(groups.values()) == {"speechocean762", "librispeech"}
    lines = (tmp_path / "data" / "text" / "lm.txt").read_text().splitlines()
    assert lines == ["SENTENCE SO1-1", "SENTENCE LS7-1", "SENTENCE KATHLEEN-1", "A FREE SENTENCE"]


def test_a_speaker_in_two_sets_is_refused(corpus: Path, tmp_path: Path) -> None:
    for name, value in (("wav.scp", "a.opus"), ("text", "A"), ("utt2spk", "so11")):
        with (corpus / "train" / name).open("a") as file:
            file.write(f"so11-9 {value}\n")
    (corpus / "books" / "utt2spk").write_text("84-5-0000 7\n85-5-0000 85\n86-5-0000 86\n")  # ls7 in train
    with pytest.raises(ValueError, match="speakers of the training set are also held out: 7, so11; take them out"):
        divide(corpus, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_an_utterance_without_a_speaker_is_named(corpus: Path, tmp_path: Path) -> None:
    (corpus / "dev" / "utt2spk").write_text("so10-0 so10\n")
    with pytest.raises(ValueError, match="dev: so10-1 of wav.scp is missing in text or utt2spk"):
        divide(corpus, tmp_path / "data")
