"""tools/language_model/train_ngram.py with KenLM's lmplz on the PATH, and without it."""

import gzip
import os
from pathlib import Path

import pytest
import train_ngram
from support.recipes import lmplz_expected
from test_tools_ngram import parse

FAKE_LMPLZ = """#!/usr/bin/env bash
# Writes what it was asked into the ARPA file that the real program would fill.
while [ $# -gt 0 ]; do
  case $1 in
    --arpa) arpa=$2 ;;
    --text) text=$2 ;;
    --prune) echo "prune $2 $3" >>"$LOG" ;;
    --limit_vocab_file) echo "vocabulary $(tr '\n' ' ' <"$2")" >>"$LOG" ;;
  esac
  shift
done
echo "text $(tr '\n' '/' <"$text")" >>"$LOG"
[ -z "${FAIL:-}" ] || { echo "first line" >&2; echo "$FAIL" >&2; exit 1; }
cat "$MODEL" >"$arpa"
"""


@pytest.fixture
def lmplz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a fake lmplz on the PATH that writes KenLM's own file for `lmplz_expected.TEXT`; return its log."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "lmplz"
    program.write_text(FAKE_LMPLZ)
    program.chmod(0o755)
    (tmp_path / "model").write_text(lmplz_expected.ARPA)
    for name, value in {"LOG": tmp_path / "log", "MODEL": tmp_path / "model"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path / "log"


def test_lmplz_is_used_where_it_is_installed(lmplz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("key1 a b\nkey2 b\n")
    arguments = [tmp_path / "text", "--keyed", "--order", 2, "--output", tmp_path / "lm.arpa.gz", "--prune", 0, 1]
    assert train_ngram.main([str(item) for item in arguments]) == 0
    assert lmplz.read_text().splitlines() == ["prune 0 1", "text a b/b/"]
    with gzip.open(tmp_path / "lm.arpa.gz", "rt") as file:
        assert parse(file.read()) == parse(lmplz_expected.ARPA)
    assert "from 3 words in 2 sentences (lmplz)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("a <unk>\n", [], "lmplz refuses texts with <unk>"),
        ("a b\n", ["--vocabulary", "words"], "lmplz cannot count words outside a vocabulary"),
    ],
)
def test_unknown_words_are_ours_to_count(
    lmplz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, options: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text(text)
    Path("words").write_text("a\n")
    assert train_ngram.main(["text", "--output", "lm.arpa", *options]) == 0
    assert not lmplz.exists() and ("<unk>",) in parse(Path("lm.arpa").read_text())
    with pytest.raises(ValueError, match=reason):
        train_ngram.main(["text", "--output", "lm.arpa", "--estimator", "lmplz", *options])


def test_lmplz_that_fails_leaves_the_old_file(lmplz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("a b\n")
    (tmp_path / "lm.arpa").write_text("old")
    monkeypatch.setenv("FAIL", "bad thresholds")
    with pytest.raises(ValueError, match="lmplz failed: bad thresholds"):
        train_ngram.main([str(tmp_path / "text"), "--output", str(tmp_path / "lm.arpa")])
    assert (tmp_path / "lm.arpa").read_text() == "old"


def test_lmplz_that_is_asked_for_and_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("a b\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="--estimator lmplz: lmplz is not on the PATH"):
        train_ngram.main([str(tmp_path / "text"), "--output", str(tmp_path / "x"), "--estimator", "lmplz"])
