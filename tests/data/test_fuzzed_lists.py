"""Lists, shards, tables, vocabularies, hot words and language models with random damage: one clear error, if any.

tests/fuzz tries more of them.
"""

import random
from pathlib import Path

import pytest
from support.data.list_readers import PIECES, language_models, lists

ROUNDS = 20
BYTES = [0, 10, 13, 32, 34, 45, 48, 57, 91, 92, 123, 255, 0xC3]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return a copy with one to six changes."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at, kind = rng.randrange(len(found) + 1), rng.randrange(4)
        if kind == 0:
            found[at : at + 1] = bytes([rng.choice([*BYTES, rng.randrange(256)])])
        elif kind == 1:
            found[at:at] = rng.choice(PIECES)
        elif kind == 2:
            del found[at : at + rng.randint(1, 30)]
        else:
            start = rng.randrange(len(found) + 1)
            found[at:at] = found[start : start + 40]
    return bytes(found)


def test_damaged_lists_and_models_end_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [*lists(tmp_path), *language_models()]
    rng = random.Random(0)
    for _ in range(ROUNDS):
        for name, content, read in files:
            (tmp_path / name).write_bytes(damaged(content, rng))
            try:
                read(tmp_path / name)
            except (ValueError, OSError) as error:
                assert str(error), name
            (tmp_path / name).write_bytes(content)
