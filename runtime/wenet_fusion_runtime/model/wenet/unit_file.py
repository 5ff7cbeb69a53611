"""Read the vocabulary of a WeNet model: units.txt, or sherpa-onnx's tokens.txt."""

from __future__ import annotations

import re
from pathlib import Path

from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.files import printable, read_lines
from wenet_fusion_runtime.results.vocabulary import BLANK, RESERVED, SOS_EOS, UNKNOWN, WORD_START, Vocabulary

_BLANKS = ("<blank>", "<blk>", "<eps>")
_SPACE = "<space>"  # the space in vocabularies that do not use U+2581
_LINE = re.compile(r"(.*?)[ \t]*([0-9]{1,9})\s*")


def read_units(path: Path, eos: int | None = None) -> Vocabulary:
    """Read a vocabulary file, which has a line `token id` for each token.

    Tokens are joined as pieces: U+2581 becomes a space, and nothing is put between tokens.

    Args:
        path: the file.
        eos: id of the token that ends a sentence; None: the id of `<sos/eos>` if it is in the file, else 2.
    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a vocabulary of this model; the message names the line or the token.
    """
    tokens: list[str] = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None or int(match[2]) != len(tokens) or printable(match[1]) != match[1]:
            raise ValueError(
                f"{path}: line {number} must be a token, a space and the number {len(tokens)}, found "
                f"'{visible(line, SHOWN)}'; give the units.txt (lang_char.txt) that the model was trained with"
            )
        tokens.append(match[1] or " ")
    if not tokens or tokens[BLANK] not in _BLANKS:
        raise ValueError(f"{path}: token 0 must be one of {', '.join(_BLANKS)}; give the model's own units.txt")
    end = RESERVED[SOS_EOS]
    if eos is None:
        eos = tokens.index(end) if end in tokens else SOS_EOS
    if eos >= len(tokens):
        raise ValueError(
            f"{path}: has {len(tokens)} tokens, but the model ends a sentence with token {eos}: it is the vocabulary "
            "of another model"
        )
    tokens[BLANK], tokens[eos] = RESERVED[BLANK], end
    if len(tokens) > UNKNOWN and tokens[UNKNOWN].lower() == "<unk>":
        tokens[UNKNOWN] = RESERVED[UNKNOWN]
    if _SPACE in tokens and WORD_START not in tokens:
        tokens[tokens.index(_SPACE)] = WORD_START
    return Vocabulary(tokens, "pieces", str(path), eos)
