"""Vocabularies of words and characters, and repeatable BPE."""

import json

import numpy as np
import pytest
from support.data.shards import tar, wav
from support.recipes.scripts import load_script

make_vocabulary = load_script("make_vocabulary")


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A folder with transcripts, one of them empty; it is the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("r0 one two\nr1 two\nr2\nr3 three\nr4 你好 one\n", encoding="utf-8")
    return tmp_path


def units(path):
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]


RESERVED = [["<blank>", "0"], ["<unk>", "1"], ["<sos/eos>", "2"]]


def test_vocabularies_of_words_and_characters(corpus):
    assert make_vocabulary.main(["--kind", "words", "text", "w"]) == 0
    assert units(corpus / "w/units.txt") == RESERVED + [["one", "3"], ["three", "4"], ["two", "5"], ["你好", "6"]]
    make_vocabulary.main(["--kind", "char", "text", "c"])
    assert [token for token, _ in units(corpus / "c/units.txt")[3:]] == sorted("ehnortw▁你好")


def test_bpe_is_repeatable_and_lowers_its_size_with_a_note(corpus, capsys):
    (corpus / "text").write_text("".join(f"k{n} {'one two three four'[: 4 + n % 15]}\n" for n in range(50)))
    for folder in ("b1", "b2"):
        make_vocabulary.main(["--kind", "bpe", "--vocab_size", "300", "text", folder])
    assert "note: the transcripts support" in capsys.readouterr().err
    for name in ("units.txt", "bpe.model", "bpe.vocab"):
        assert (corpus / "b1" / name).read_bytes() == (corpus / "b2" / name).read_bytes()
    with pytest.raises(ValueError, match="Vocabulary size is smaller than required_chars.*raise --vocab_size"):
        make_vocabulary.main(["--kind", "bpe", "--vocab_size", "3", "text", "b3"])
    assert not list((corpus / "b3").iterdir())


def test_vocabularies_of_training_data(corpus, capsys):
    """The forms of data that training reads: sequential shards, NeMo's tars, lhotse's cuts."""
    pairs = [("b", "two"), ("a", "one two"), ("c", "three")]
    members = [
        (f"{key}.{kind}", text.encode() if kind == "txt" else wav(np.zeros(80)))
        for key, text in pairs
        for kind in ("txt", "wav")
    ]
    (corpus / "s_0.tar").write_bytes(tar(members[:4], "w:gz"))
    (corpus / "s_1.tar").write_bytes(tar(members[4:]))
    (corpus / "shards.list").write_text("s_{0..1}.tar\n")
    options = ["--kind", "words", "--data_type", "sequential", "shards.list"]
    make_vocabulary.main([*options, "all"])
    assert units(corpus / "all/units.txt")[3:] == [["one", "3"], ["three", "4"], ["two", "5"]]
    make_vocabulary.main([*options, "some", "--max_utterances", "2"])
    assert [token for token, _ in units(corpus / "some/units.txt")[3:]] == ["three", "two"], "the first of each shard"
    (corpus / "shards.list").write_text("pipe:cat s_0.tar\ns_1.tar\n")
    with pytest.raises(ValueError, match="shards.list:1: .*allow_commands"):
        make_vocabulary.main([*options, "all"])
    make_vocabulary.main([*options, "again", "--allow_commands"])
    assert (corpus / "again/units.txt").read_text() == (corpus / "all/units.txt").read_text()
    for number, part in enumerate((pairs[:2], pairs[2:])):
        (corpus / f"audio_{number}.tar").write_bytes(tar([(f"{key}.wav", wav(np.zeros(80))) for key, _ in part]))
    lines = [{"audio_filepath": f"{key}.wav", "text": text, "shard_id": int(key == "c")} for key, text in pairs]
    (corpus / "nemo.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    nemo = [*options[:-1], "nemo.json", "nemo", "--nemo_tars", "audio_{0..1}.tar"]
    make_vocabulary.main(nemo)
    assert (corpus / "nemo/units.txt").read_text() == (corpus / "all/units.txt").read_text()
    (corpus / "audio_1.tar").write_bytes(b"no tar")
    with pytest.raises(ValueError, match=r"1 of 3 utterances cannot be read:\n  .*audio_1.tar: damaged .*or not a tar"):
        make_vocabulary.main(nemo)


def test_special_tokens_of_training_data_are_named_with_their_place(corpus):
    (corpus / "data.list").write_text(json.dumps({"key": "u", "wav": "u.wav", "txt": "one [noise]"}) + "\n")
    (corpus / "u.wav").write_bytes(wav(np.zeros(80)))
    with pytest.raises(ValueError, match=r"data.list:1: u holds \[noise\]"):
        make_vocabulary.main(["--data_type", "raw", "data.list", "units"])
