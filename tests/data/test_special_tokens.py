"""Special tokens in transcripts are refused with their lines, unless a setting says how to treat them."""

import subprocess
import sys

import pytest
from support.recipes.scripts import TOOLS, load_script
from wenet_fusion_runtime.results.vocabulary import Vocabulary

from wenet_fusion.text.special_tokens import remove_special_tokens, split_special_tokens
from wenet_fusion.text.tokenizer import CharTokenizer, TokenizerConfig, UnknownToken, build_tokenizer
from wenet_fusion.training.state.checkpoint_migration import FORMAT, migrate

make_vocabulary = load_script("make_vocabulary")
RESERVED = ("<blank>", "<unk>", "<sos/eos>")
TEXT = "u1 SIX [noise] ONE <unk>\nu2 <NOISE> SEVEN {LAUGH}\nu3 [loud laughter] 你好[noise]你 <unk>\n"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_the_default_refuses_and_names_the_lines(text, tmp_path):
    for script, arguments in (("make_vocabulary.py", (text, tmp_path)), ("make_raw_list.py", ("none", text, "out"))):
        result = subprocess.run(
            [sys.executable, next(TOOLS.rglob(script)), *arguments], capture_output=True, text=True, check=False
        )
        assert result.returncode == 1 and result.stderr.splitlines() == [
            f"error: {text}: 3 of 3 transcripts hold special tokens; choose with --special_tokens: remove leaves them "
            "out, keep makes each one token of the vocabulary, spell treats them like other text",
            f"{text}:1: u1 holds [noise], <unk>",
            f"{text}:2: u2 holds <NOISE>, {{LAUGH}}",
            f"{text}:3: u3 holds [loud_laughter], [noise], <unk>",
        ]
    assert not (tmp_path / "units.txt").exists()


def units(text, kind, choice):
    folder = text.parent / f"{kind}-{choice}"
    make_vocabulary.main(["--kind", kind, "--special_tokens", choice, "--vocab_size", "30", str(text), str(folder)])
    return folder, [line.split()[0] for line in (folder / "units.txt").read_text("utf-8").splitlines()[3:]]


MARKS = ["<NOISE>", "[loud_laughter]", "[noise]", "{LAUGH}"]


def test_removed_special_tokens_leave_no_tokens(text, capsys):
    assert units(text, "char", "remove")[1] == sorted(set("SIXONESEVEN▁你好"))
    assert "special tokens were removed: [noise] 2, <unk> 2, <NOISE> 1, {LAUGH} 1" in capsys.readouterr().err
    assert units(text, "words", "remove")[1] == sorted(["SIX", "ONE", "SEVEN", "你好你"])


@pytest.mark.parametrize("kind", ["words", "char", "bpe"])
def test_each_kept_special_token_is_one_token(text, kind):
    folder, found = units(text, kind, "keep")
    start = "▁" if kind == "bpe" else ""
    assert [token for token in found if any(sign in token for sign in "<>[]{}_")] == [start + mark for mark in MARKS]
    config = TokenizerConfig(
        units="units.txt", kind="bpe" if kind == "bpe" else "char", split_with_space=kind == "words",
        bpe_model="bpe.model" if kind == "bpe" else "", special_tokens="keep",
    )  # fmt: skip
    tokenizer = build_tokenizer(config, folder)
    ids = tokenizer.encode("SIX [noise] ONE <unk>")
    assert [tokenizer.vocabulary.tokens[number] for number in ids].count(start + "[noise]") == 1 and ids.count(1) == 1
    assert tokenizer.decode(ids).split()[:2] == ["SIX", "[noise]"]
    assert tokenizer.encode("{LAUGH}") == [tokenizer.vocabulary.id(f"{start}{{LAUGH}}")]


def test_spelled_special_tokens_are_letters(text):
    assert set("<[]>{}oise") <= set(units(text, "char", "spell")[1])


def test_training_makes_the_same_choice():
    letters = Vocabulary((*RESERVED, *"SIX▁[]nosie", "<", ">", "u", "k"), "pieces", "units.txt")
    plain = CharTokenizer(letters).encode("SIX")
    with pytest.raises(UnknownToken, match=r"'\[noise\]' in 'SIX \[noise\]' is not in the vocabulary units.txt; it "):
        CharTokenizer(letters).encode("SIX [noise]")
    assert CharTokenizer(letters, "remove").encode("SIX [noise]") == plain
    assert CharTokenizer(letters, "remove").transcript("SIX [noise]") == "SIX", "also in the references of scores"
    assert len(CharTokenizer(letters, "spell").encode("SIX [noise]")) == 11
    with pytest.raises(UnknownToken, match="--special_tokens keep"):
        CharTokenizer(letters, "keep").encode("SIX [noise]")
    words = CharTokenizer(Vocabulary((*RESERVED, "SIX", "[noise]"), "words"))
    assert words.encode("SIX [noise]") == [3, 4], "a vocabulary with the token decides"


def test_checkpoints_of_earlier_versions_spell_as_they_did():
    content = {"format": FORMAT, "config_yaml": "tokenizer:\n  units: u\nseed: 0\n", "weights": {}}
    migrated = migrate(content)["config_yaml"]
    assert migrated == "tokenizer:\n  special_tokens: spell\n  units: u\nseed: 0\n"
    assert migrate({**content, "config_yaml": migrated})["config_yaml"] == migrated


def test_brackets_that_are_no_special_tokens():
    for text in ("a < b > c", "x <", "[] {}", "<>", "(noise)", "3 <4 5"):
        assert not any(part.is_special for part in split_special_tokens(text)), text
    assert remove_special_tokens("one  two") == "one  two", "texts without special tokens stay as they are"
