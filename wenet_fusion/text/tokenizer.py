"""Encode transcripts as token ids of a vocabulary, and decode token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sentencepiece
from wenet_fusion_runtime.results.normalization import normalize_text, spellings
from wenet_fusion_runtime.results.vocabulary import UNKNOWN, WORD_START, Vocabulary

from wenet_fusion.text.special_tokens import (
    Part,
    SpecialTokens,
    may_hold_special_tokens,
    means_unknown,
    remove_special_tokens,
    split_special_tokens,
)
from wenet_fusion.text.vocabulary_file import read_vocabulary


class UnknownToken(ValueError):
    """A transcript holds a token that is missing from the vocabulary."""


@dataclass(frozen=True)
class TokenizerConfig:
    """Settings of the tokenizer; `build_tokenizer` resolves relative paths.

    >>> TokenizerConfig(units="data/lang/units.txt", split_with_space=True).join
    'words'
    """

    units: str  # vocabulary file (WeNet's units.txt), from tools/data/make_vocabulary.py
    kind: Literal["char", "bpe"] = "char"  # char: characters or words; bpe: sentencepiece pieces
    split_with_space: bool = False  # kind char only: tokens are words, not characters
    bpe_model: str = ""  # kind bpe only: file of the sentencepiece model
    special_tokens: SpecialTokens = "refuse"  # treatment of <unk>, [noise], {LAUGH} in transcripts: see docs/data.md

    @property
    def join(self) -> str:
        """Return the rule that joins tokens into text, see `Vocabulary`."""
        return "words" if self.split_with_space else "pieces"

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        found = []
        if self.kind == "bpe" and not self.bpe_model:
            found.append("bpe_model is required with kind: bpe")
        if self.kind == "bpe" and self.split_with_space:
            found.append("split_with_space belongs to kind: char")
        return found


class Tokenizer:
    """Convert transcripts to token ids and back; normalise their spelling, and treat special tokens.

    Args:
        vocabulary: the tokens in the order of their ids.
        special_tokens: treatment of special tokens in transcripts, see `TokenizerConfig`.

    `CharTokenizer` and `BpeTokenizer` define how a text is split.

    >>> issubclass(CharTokenizer, Tokenizer)
    True
    """

    kind: str  # name of the tokenizer in configurations and exported files: "char" or "bpe"
    model_bytes: bytes = b""  # the serialised sentencepiece model, for checkpoints; empty for other tokenizers

    def __init__(self, vocabulary: Vocabulary, special_tokens: SpecialTokens = "refuse") -> None:
        self.vocabulary = vocabulary
        self.special_tokens: SpecialTokens = special_tokens
        self._known = {token: number for token in vocabulary.tokens if (number := vocabulary.id(token)) is not None}

    @property
    def join(self) -> str:
        """Return the rule that joins tokens into text, see `Vocabulary`."""
        return self.vocabulary.join

    def decode(self, ids: Sequence[int]) -> str:
        """Return the transcript of token ids."""
        return self.vocabulary.text(ids)

    def transcript(self, text: str) -> str:
        """Return the transcript; with `special_tokens` "remove", without its special tokens."""
        return remove_special_tokens(text) if self.special_tokens == "remove" else text

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a transcript after `normalize_text`; an empty transcript gives an empty list.

        If the vocabulary lacks a token, other Unicode forms are tried: vocabularies of earlier versions may hold them.

        Raises:
            UnknownToken: the vocabulary lacks a token, or a special token that is neither removed nor spelled.
        """
        problems = []
        for form in spellings(self.transcript(text)):
            try:
                return self._encode(" ".join(form.split()))
            except UnknownToken as error:
                problems.append(error)
        raise problems[0]

    def unknown(self, text: str) -> list[str]:
        """Return the tokens of a normalised transcript that the vocabulary lacks.

        >>> tokenizer = CharTokenizer(Vocabulary(["<blank>", "<unk>", "<sos/eos>", "one"], "words"))
        >>> tokenizer.unknown("one six [noise]")
        ['six', '[noise]']
        """
        form = " ".join(normalize_text(self.transcript(text)).split())
        parts = [Part(form, False)] if self.special_tokens == "spell" else split_special_tokens(form)
        tokens = [token for part in parts for token in ([part.text] if part.is_special else self._split(part.text))]
        return [token for token in tokens if token not in self._known and not self._has_special_id(token)]

    def _has_special_id(self, token: str) -> bool:
        return WORD_START + token in self._known or (self.special_tokens == "keep" and means_unknown(token))

    def _split(self, text: str) -> Sequence[str]:
        """Split a text that holds no special tokens into tokens."""
        raise NotImplementedError

    def _encode(self, text: str) -> list[int]:
        if self.special_tokens == "spell" or not may_hold_special_tokens(text):
            return self._ids(text, text)
        ids = []
        for part in split_special_tokens(text):
            ids += [self._special_id(part.text, text)] if part.is_special else self._ids(part.text, text)
        return ids

    def _special_id(self, token: str, text: str) -> int:
        for name in (token, WORD_START + token):
            number = self.vocabulary.id(name)
            if number is not None:
                return number
        if self.special_tokens == "keep" and means_unknown(token):
            return UNKNOWN
        raise UnknownToken(
            f"{token!r} in {text!r} is not in the vocabulary {self.vocabulary.source}; it looks like a special token: "
            "set tokenizer.special_tokens to remove or spell, or make the vocabulary with --special_tokens keep"
        )

    def _ids(self, part: str, text: str) -> list[int]:
        """Return the ids of a part without special tokens; `text` is the whole transcript, for messages."""
        try:
            return list(map(self._known.__getitem__, self._split(part)))
        except KeyError as error:
            problem = f"{error.args[0]!r} in {text!r} is not in the vocabulary {self.vocabulary.source}"
            raise UnknownToken(f"{problem}; add it or change the text") from None


class CharTokenizer(Tokenizer):
    """Split transcripts into characters, with U+2581 for a space; or into words, if the vocabulary joins words.

    >>> reserved = ["<blank>", "<unk>", "<sos/eos>"]
    >>> tokenizer = CharTokenizer(Vocabulary([*reserved, "one", "two"], "words"))
    >>> tokenizer.encode("two one")
    [4, 3]
    >>> tokenizer.decode([4, 3])
    'two one'
    """

    kind = "char"

    def __init__(self, vocabulary: Vocabulary, special_tokens: SpecialTokens = "refuse") -> None:
        super().__init__(vocabulary, special_tokens)
        # The token id of each ASCII byte; 0, the blank, for bytes that need the slow path.
        ids = [self._known.get(WORD_START if number == ord(" ") else chr(number), 0) for number in range(128)]
        self._ascii_ids = bytes(number if number < 256 else 0 for number in ids).ljust(256, b"\0")

    def _ids(self, part: str, text: str) -> list[int]:
        if self.join == "pieces" and part.isascii():
            ids = part.encode().translate(self._ascii_ids)
            if 0 not in ids:
                return list(ids)
        return super()._ids(part, text)

    def _split(self, text: str) -> Sequence[str]:
        return text.replace(" ", WORD_START) if self.join == "pieces" else text.split()


class BpeTokenizer(Tokenizer):
    """Split transcripts into sentencepiece pieces; their ids come from the vocabulary, as in WeNet.

    Args:
        vocabulary: the pieces in the order of their ids.
        model: a serialised sentencepiece model.
        source: the file that the model came from, for messages.
        special_tokens: treatment of special tokens, see `TokenizerConfig`.

    Raises:
        ValueError: `model` is not a sentencepiece model.

    >>> model = Path("data/lang/bpe.model").read_bytes()  # doctest: +SKIP
    >>> BpeTokenizer(vocabulary, model, "bpe.model").encode("two one")  # doctest: +SKIP
    [17, 4, 9]
    """

    kind = "bpe"

    def __init__(
        self, vocabulary: Vocabulary, model: bytes, source: str, special_tokens: SpecialTokens = "refuse"
    ) -> None:
        super().__init__(vocabulary, special_tokens)
        self.model_bytes = model
        try:
            if not model:  # sentencepiece itself accepts an empty model
                raise RuntimeError("it is empty")
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(
                f"{source} is no sentencepiece model; train one with tools/data/make_vocabulary.py --kind bpe"
            ) from error
        # The token id of each piece; 0, the blank, for pieces that need the slow path.
        pieces = self._pieces.id_to_piece(list(range(self._pieces.get_piece_size())))
        self._piece_ids = [self._known.get(piece, 0) for piece in pieces]
        self._piece_ids[self._pieces.unk_id()] = 0  # the piece for any text that no other piece covers

    def _ids(self, part: str, text: str) -> list[int]:
        ids = list(map(self._piece_ids.__getitem__, self._pieces.encode(part.strip())))
        return super()._ids(part, text) if 0 in ids else ids

    def _split(self, text: str) -> Sequence[str]:
        return self._pieces.encode(text.strip(), out_type=str)


def split_characters(text: str) -> list[str]:
    """Return the characters of a transcript; white space becomes one U+2581 between words, and none at the ends.

    >>> split_characters(" ab  c ")
    ['a', 'b', '▁', 'c']
    """
    return [WORD_START if character == " " else character for character in " ".join(text.split())]


def build_tokenizer(config: TokenizerConfig, base: Path) -> Tokenizer:
    """Build a tokenizer from files; relative paths of `config` start at `base`.

    Raises:
        OSError, ValueError: a file is missing or malformed.
    """
    path, units = base / config.bpe_model, base / config.units
    if config.kind == "bpe" and not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; train it with tools/data/make_vocabulary.py --kind bpe")
    model = path.read_bytes() if config.kind == "bpe" else b""
    vocabulary = read_vocabulary(units, config.join)
    if config.kind == "char" and any(token[:1] == WORD_START and token[1:].isalnum() for token in vocabulary.tokens):
        raise ValueError(
            f"{units} holds pieces of a sentencepiece model: set tokenizer.kind=bpe and tokenizer.bpe_model"
        )
    return _assemble(config, vocabulary, model, str(path))


def restore_tokenizer(config: TokenizerConfig, tokens: Sequence[str], bpe_model: bytes, source: str) -> Tokenizer:
    """Build a tokenizer from the tokens and the sentencepiece model in a checkpoint; `source` is its name in messages.

    Raises:
        ValueError: the tokens or the sentencepiece model are malformed.
    """
    return _assemble(config, Vocabulary(tokens, config.join, source), bpe_model, source)


def _assemble(config: TokenizerConfig, vocabulary: Vocabulary, bpe_model: bytes, source: str) -> Tokenizer:
    if config.kind == "bpe":
        return BpeTokenizer(vocabulary, bpe_model, source, config.special_tokens)
    return CharTokenizer(vocabulary, config.special_tokens)
