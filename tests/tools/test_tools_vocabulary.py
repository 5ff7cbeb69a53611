"""Vocabularies: units of words and characters, and repeatable BPE."""

import pytest
from support.recipes.scripts import load_script

make_vocabulary = load_script("make_vocabulary")


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A folder, the working directory, with transcripts of which one is empty."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("r0 one two\nr1 two\nr2\nr3 three\nr4 你好 one\n", encoding="utf-8")
    return tmp_path


def units(path):
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]


RESERVED = [["<blank>", "0"], ["<unk>", "1"], ["<sos/eos>", "2"]]


def test_units_of_words_and_characters(corpus):
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
