"""Tokenizers and vocabularies: transcripts survive the round trip; unknown tokens and broken units.txt are reported."""

import pickle
import re

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recipes.scripts import load_script
from wenet_fusion_runtime.results.vocabulary import Vocabulary

from wenet_fusion.config import ConfigError, config_from_mapping
from wenet_fusion.text.tokenizer import CharTokenizer, TokenizerConfig, UnknownToken, build_tokenizer, restore_tokenizer
from wenet_fusion.text.vocabulary_file import format_vocabulary, read_vocabulary

RESERVED = ("<blank>", "<unk>", "<sos/eos>")
WORDS = Vocabulary((*RESERVED, "one", "two", "three"), "words", "units.txt")
LETTERS = Vocabulary((*RESERVED, *"▁abc你好\u3000"), "pieces", "units.txt")


def test_vocabulary_round_trip(tmp_path):
    path = tmp_path / "units.txt"
    path.write_text(format_vocabulary(LETTERS.tokens), encoding="utf-8")
    assert read_vocabulary(path, "words").tokens == LETTERS.tokens
    path.write_bytes(b"\xef\xbb\xbf" + "".join(f"{t}\t{i}\r\n" for i, t in enumerate(WORDS.tokens)).encode())
    assert read_vocabulary(path, "words").tokens == WORDS.tokens, "BOM, tabs and Windows line ends are accepted"
    assert len(WORDS) == 6 and WORDS.id("two") == 4 and WORDS.id("four") is None and WORDS.id("<blank>") is None


def test_a_missing_vocabulary_is_answered_with_the_tool_that_writes_it(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"units.txt: there is no such vocabulary; .*make_vocabulary.py"):
        read_vocabulary(tmp_path / "units.txt", "words")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no tokens; write it with tools/data/make_vocabulary.py"),
        ("<blank> 0\n<unk> 1\n<sos/eos> 2\none\n", "units.txt:4: expected 'token id', found 'one'"),
        ("<blank> 0\n<unk> 1\n<sos/eos> 2\none 4\n", "units.txt:4: expected id 3 for 'one', found 4"),
        ("<blank> 0\n<unk> 1\n<sos/eos> 2\none 3\none 4\n", "units.txt:5: 'one' is already in line 4"),
        ("<blank> 0\n<unk> 1\none 2\n", r"tokens 0, 1, 2 must be <blank>, <unk>, <sos/eos>, found"),
    ],
)
def test_mistakes_in_a_vocabulary_file_are_named(tmp_path, text, message):
    path = tmp_path / "units.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_vocabulary(path, "words")


@given(st.lists(st.sampled_from(WORDS.tokens[3:])))
@settings(max_examples=30, deadline=None)
def test_words_round_trip(words):
    tokenizer = CharTokenizer(WORDS)
    ids = tokenizer.encode("  ".join(words))
    assert len(ids) == len(words) and tokenizer.decode(ids) == " ".join(words)


@given(st.lists(st.text("abc你好", min_size=1)))
@settings(max_examples=30, deadline=None)
def test_characters_round_trip(words):
    tokenizer = CharTokenizer(LETTERS)
    ids = tokenizer.encode(" " + "  ".join(words))
    assert len(ids) == len(" ".join(words)) and tokenizer.decode(ids) == " ".join(words)


@pytest.mark.parametrize("word", ["four", "<blank>", "<unk>", "<sos/eos>"])
def test_unknown_and_reserved_tokens_are_named(word):
    with pytest.raises(UnknownToken, match=f"'{word}' in 'one {word}' is not in the vocabulary units.txt"):
        CharTokenizer(WORDS).encode(f"one {word}")


@pytest.fixture(scope="module")
def bpe_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bpe")
    words = ["zero", "one", "two", "three", "four", "five"]
    lines = [f"k{i} {' '.join(words[(i * k) % 6] for k in range(1, 5))}\n" for i in range(60)]
    (folder / "text").write_text("".join(lines))
    load_script("make_vocabulary").main(["--kind", "bpe", "--vocab_size", "24", str(folder / "text"), str(folder)])
    return folder


BPE = TokenizerConfig(kind="bpe", units="units.txt", bpe_model="bpe.model")


def test_bpe_round_trip_and_restore(bpe_folder):
    tokenizer = build_tokenizer(BPE, bpe_folder)
    text = "five four  zero"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == "five four zero" and tokenizer.encode("") == []
    assert len(ids) < len(text) and min(ids) >= 3
    copy = restore_tokenizer(BPE, tokenizer.vocabulary.tokens, tokenizer.model_bytes, "model.pt")
    assert copy.encode(text) == ids
    assert pickle.loads(pickle.dumps(tokenizer)).encode(text) == ids, "worker processes may get it by pickling"
    with pytest.raises(UnknownToken, match="'q' in 'one q'"):
        tokenizer.encode("one q")


def test_the_kind_char_refuses_a_vocabulary_of_pieces(bpe_folder):
    """Its characters are pieces too, so training would silently use another tokenizer."""
    remedy = re.escape(
        "units.txt holds pieces of a sentencepiece model: set tokenizer.kind=bpe and tokenizer.bpe_model"
    )
    with pytest.raises(ValueError, match=remedy):
        build_tokenizer(TokenizerConfig(kind="char", units="units.txt"), bpe_folder)


def test_bpe_ids_are_those_of_units_txt(bpe_folder, tmp_path):
    tokenizer = build_tokenizer(BPE, bpe_folder)
    pieces = tokenizer.vocabulary.tokens[3:]
    turned = restore_tokenizer(BPE, (*RESERVED, *reversed(pieces)), tokenizer.model_bytes, "x")
    last = len(pieces) + 5
    assert turned.encode("zero one") == [last - number for number in tokenizer.encode("zero one")]


def test_bpe_takes_the_ids_of_pieces_and_the_slow_way_for_the_rest(bpe_folder):
    """The vocabulary may hold tokens that sentencepiece lacks; pieces that the vocabulary lacks are named."""
    tokenizer = build_tokenizer(BPE, bpe_folder)
    tokens, model = tokenizer.vocabulary.tokens, tokenizer.model_bytes
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    wider = restore_tokenizer(BPE, (*tokens[:5], "q", *tokens[5:]), model, "x")
    known = {token: number for number, token in enumerate(wider.vocabulary.tokens)}
    for text in ("five four zero", "one", "z", "noen otw", "one q two", "qq"):
        split = pieces.encode(text, out_type=str)
        missing = [piece for piece in split if piece not in known]
        if not missing:
            assert wider.encode(text) == [known[piece] for piece in split]
            continue
        with pytest.raises(UnknownToken, match=re.escape(repr(missing[0]))):
            wider.encode(text)
    assert 5 in wider.encode("one q two")
    fewer = restore_tokenizer(BPE, tokens[:-1], model, "x")
    with pytest.raises(UnknownToken, match=re.escape(f"{tokens[-1]!r} in ")):
        fewer.encode(tokens[-1].strip("\u2581"))


def test_missing_or_foreign_model_files(bpe_folder, tmp_path):
    (tmp_path / "units.txt").write_text(format_vocabulary(WORDS.tokens))
    with pytest.raises(FileNotFoundError, match="bpe.model does not exist"):
        build_tokenizer(BPE, tmp_path)
    (tmp_path / "bpe.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="bpe.model is no sentencepiece model"):
        build_tokenizer(BPE, tmp_path)


def test_configuration_problems():
    with pytest.raises(ConfigError, match="bpe_model is required"):
        config_from_mapping(TokenizerConfig, {"kind": "bpe", "units": "u"}, "c")
    with pytest.raises(ConfigError, match="split_with_space belongs to kind: char"):
        config_from_mapping(
            TokenizerConfig, {"kind": "bpe", "units": "u", "bpe_model": "m", "split_with_space": True}, "c"
        )


@pytest.mark.parametrize("first", [3, 250])
def test_letters_of_any_id_are_encoded(first):
    """Ids below 256 take a faster path, which cannot encode larger ids."""
    tokens = [f"<{number}>" for number in range(first)]
    tokens[:3] = ["<blank>", "<unk>", "<sos/eos>"]
    tokenizer = CharTokenizer(Vocabulary([*tokens, *"▁abcdefgh"], "pieces"))
    assert tokenizer.encode(" a hgf  b ") == [first + step for step in (1, 0, 8, 7, 6, 0, 2)]
    assert tokenizer.encode("") == []
    for text in ("abx", "ab\u4f60"):
        with pytest.raises(UnknownToken, match=f"'{text[-1]}' in '{text}' is not in the vocabulary"):
            tokenizer.encode(text)
