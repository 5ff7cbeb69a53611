"""Cuts transcripts into the units of a vocabulary and joins them again; knows neither audio nor models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import sentencepiece
from wenet_fusion_runtime.results.vocabulary import WORD_START, Vocabulary

from wenet_fusion.text.vocabulary_file import read_vocabulary


class UnknownToken(ValueError):
    """A transcript holds something that is not in the units."""


class Tokenizer(Protocol):
    """Transcript <-> unit ids. `kind` and `join` are what an exported file says of it (see Vocabulary for `join`)."""

    kind: str
    join: str
    vocabulary: Vocabulary
    model_bytes: bytes  # of the sentencepiece model, for checkpoints; empty where there is none

    def encode(self, text: str) -> list[int]:
        """Unit ids of a transcript; an empty one has none. Raises UnknownToken."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The transcript of unit ids."""
        ...


@dataclass(frozen=True)
class TokenizerConfig:
    """How transcripts become units. Relative paths are resolved by `build_tokenizer`."""

    units: str  # units.txt
    kind: Literal["char", "bpe"] = "char"
    split_with_space: bool = False  # char: units are whatever stands between spaces (words), not characters
    bpe_model: str = ""  # bpe: the sentencepiece model

    @property
    def join(self) -> str:
        """How tokens become text, see `Vocabulary`."""
        return "words" if self.split_with_space else "pieces"

    def problems(self) -> list[str]:
        found = []
        if self.kind == "bpe" and not self.bpe_model:
            found.append("bpe_model is required with kind: bpe")
        if self.kind == "bpe" and self.split_with_space:
            found.append("split_with_space belongs to kind: char")
        return found


class CharTokenizer:
    """Vocabulary are characters, a space being U+2581, or with `split_with_space` words."""

    kind = "char"
    model_bytes = b""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.join = vocabulary.join

    def encode(self, text: str) -> list[int]:
        return _ids(split_characters(text) if self.join == "pieces" else text.split(), text, self.vocabulary)

    def decode(self, ids: Sequence[int]) -> str:
        return self.vocabulary.text(ids)


class BpeTokenizer:
    """Vocabulary are sentencepiece's pieces, numbered by units.txt as in WeNet, not by the sentencepiece model."""

    kind = "bpe"
    join = "pieces"

    def __init__(self, vocabulary: Vocabulary, model: bytes, source: str) -> None:
        """`model`: a serialised sentencepiece model that came from `source`. Raises ValueError if it is none."""
        self.vocabulary = vocabulary
        self.model_bytes = model
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(
                f"{source} is no sentencepiece model; train one with tools/data/make_vocabulary.py --kind bpe"
            ) from error

    def encode(self, text: str) -> list[int]:
        return _ids(self._pieces.encode(" ".join(text.split()), out_type=str), text, self.vocabulary)

    def decode(self, ids: Sequence[int]) -> str:
        return self.vocabulary.text(ids)


def split_characters(text: str) -> list[str]:
    """Characters of a transcript; any run of white space is one U+2581, at the ends none."""
    return [WORD_START if character == " " else character for character in " ".join(text.split())]


def build_tokenizer(config: TokenizerConfig, base: Path) -> Tokenizer:
    """The tokenizer that `config` describes; its relative paths start at `base`. Raises ValueError or OSError."""
    path = base / config.bpe_model
    if config.kind == "bpe" and not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; train it with tools/data/make_vocabulary.py --kind bpe")
    model = path.read_bytes() if config.kind == "bpe" else b""
    return _assemble(config, read_vocabulary(base / config.units, config.join), model, str(path))


def restore_tokenizer(config: TokenizerConfig, units: Sequence[str], bpe_model: bytes, source: str) -> Tokenizer:
    """The tokenizer whose units and sentencepiece model are kept in the file `source`. Raises ValueError."""
    return _assemble(config, Vocabulary(units, config.join, source), bpe_model, source)


def _assemble(config: TokenizerConfig, vocabulary: Vocabulary, bpe_model: bytes, source: str) -> Tokenizer:
    if config.kind == "bpe":
        return BpeTokenizer(vocabulary, bpe_model, source)
    return CharTokenizer(vocabulary)


def _ids(tokens: Sequence[str], text: str, vocabulary: Vocabulary) -> list[int]:
    ids = [vocabulary.id(token) for token in tokens]
    if None in ids:
        token = tokens[ids.index(None)]
        raise UnknownToken(
            f"{token!r} in {text!r} is not in the vocabulary {vocabulary.source}; add it or change the text"
        )
    return ids
