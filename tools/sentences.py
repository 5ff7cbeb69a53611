"""Sentences of text files as lists of words, for tools that work on language models; knows no models."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from wenet_fusion.text.tokenizer import WORD_START, split_characters

MARKS = ("<s>", "</s>")


class TextFormat(NamedTuple):
    """How a line becomes words."""

    keyed: bool = False  # it begins with a key, as in Kaldi's text
    characters: bool = False  # each character is a word


def add_format_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `text_format` reads."""
    parser.add_argument("--keyed", action="store_true", help="lines begin with a key, as in Kaldi's text")
    parser.add_argument(
        "--characters",
        action="store_true",
        help="each character is a word and spaces are none, for models whose units hold no U+2581 (Chinese characters)",
    )


def text_format(args: argparse.Namespace) -> TextFormat:
    return TextFormat(args.keyed, args.characters)


def read_sentences(path: Path, text: TextFormat) -> Iterator[list[str]]:
    """The words of each line. Empty lines are left out; with a key they are sentences without words.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, or a line holds a word that marks where sentences begin or end.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(tqdm(file, desc=path.name, unit="line", leave=False, disable=None), start=1):
                words = line.split()
                if not words:
                    continue
                if text.keyed:
                    del words[0]
                if text.characters:
                    words = [unit for unit in split_characters(" ".join(words)) if unit != WORD_START]
                for mark in MARKS:
                    if mark in words:
                        raise ValueError(f"{path}:{number}: holds {mark}, which is added to each line; remove it")
                yield words
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from error
