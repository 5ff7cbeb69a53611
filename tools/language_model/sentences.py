"""Read the sentences of text files as lists of words."""

import argparse
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm
from wenet_fusion_runtime.results.normalization import normalize_text
from wenet_fusion_runtime.search.spelling import split_words

from wenet_fusion.text.special_tokens import remove_special_tokens

MARKS = ("<s>", "</s>")
# Ways to split a line into words.
SPLITS = {
    "spaces": str.split,
    "unspaced": split_words,
    "characters": lambda line: list("".join(line.split())),
}


class TextFormat(NamedTuple):
    """The format of a line, and the rule for splitting it into words."""

    keyed: bool  # the line begins with a key, as in Kaldi's text
    words: str  # one of SPLITS
    without_special_tokens: bool = False  # leave out special tokens such as [noise]


def add_format_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `text_format` reads."""
    parser.add_argument("--keyed", action="store_true", help="lines begin with a key, as in Kaldi's text")
    parser.add_argument(
        "--remove_special_tokens",
        action="store_true",
        help="leave out special tokens such as <unk>, [noise] and {LAUGH}, like --special_tokens remove in transcripts",
    )
    parser.add_argument(
        "--words", choices=SPLITS, default="spaces",
        help="how to split lines into words; the search must split text in the same way. spaces: at spaces; unspaced:"
        " at spaces, and each Chinese or Japanese character is a word, for vocabularies with U+2581; characters: each"
        " character is a word, for vocabularies without U+2581 (default: %(default)s)",
    )  # fmt: skip


def text_format(args: argparse.Namespace) -> TextFormat:
    """Return the format that the options choose."""
    return TextFormat(args.keyed, args.words, args.remove_special_tokens)


def read_sentences(path: Path, text: TextFormat) -> Iterator[list[str]]:
    """Yield the words of each line, normalised like transcripts (`normalize_text`). Empty lines are skipped; a line
    with only a key is a sentence without words. A file whose name ends in .gz is decompressed.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not UTF-8, or a line contains a mark of the beginning or end of a sentence.
    """
    split = SPLITS[text.words]
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(tqdm(file, desc=path.name, unit="line", leave=False, disable=None), start=1):
                if not line.strip():
                    continue
                if text.keyed:
                    line = " ".join(line.split(maxsplit=1)[1:])
                line = normalize_text(line)
                words = split(remove_special_tokens(line) if text.without_special_tokens else line)
                for mark in MARKS:
                    if mark in words:
                        raise ValueError(f"{path}:{number}: holds {mark}, which is added to each line; remove it")
                yield words
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from error
