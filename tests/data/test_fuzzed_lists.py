"""Lists, shards, tables, vocabularies, hot words and language models with random damage: read, or one clear error."""

import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from kaldi_corpus import read_corpus
from wenet_fusion_runtime.search.hot_words import read_hot_words
from wenet_fusion_runtime.search.language_model import load_language_model

from wenet_fusion.data.manifest import scan_manifest
from wenet_fusion.text.vocabulary_file import read_vocabulary

ROUNDS, SLOW_ROUNDS = 20, 600
BYTES = [0, 10, 13, 32, 34, 45, 48, 57, 91, 92, 123, 255, 0xC3]
PIECES = [
    b"-inf", b"nan", b"1e999", b"\\ud800", b"[[", b"null", b"\n\n", b"9" * 400, b"\t", b"-1", b"\\data\\",
    b"ngram 9=0\n", b"\xef\xbb\xbf", b"../", b"\x00", b"\xe9", b"[noise]",
]  # fmt: skip
RAW = [
    {"key": "a", "wav": "a.wav", "txt": "one", "start": 0.1, "end": -1},
    {"audio_filepath": "a.wav", "text": "x", "offset": 0.1, "duration": 0.2},
    {"key": "c", "wav": "a.wav", "txt": "x", "duration": 0.5, "speaker": "s", "channel": 1},
]
ARPA = (
    b"\\data\\\nngram 1=4\nngram 2=1\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\t-0.5\n-0.7\t</s>\n-0.6\ta\t-0.4\n\n"
    b"\\2-grams:\n-0.2\t<s> a\n\n\\end\\\n"
)


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


def shard(audio: bytes) -> bytes:
    """Return a tar of one utterance."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (("k.txt", b"one"), ("k.wav", audio)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def use_model(path: Path) -> None:
    """Load a language model and score words: finite, and never above 0."""
    model = load_language_model(path)
    state = model.start()
    for word in ("a", "zebra", ""):
        log_prob, state = model.advance(state, word)
        assert -1e6 < log_prob <= 0
    assert -1e6 < model.finish(state) <= 0


def fuzz(folder: Path, rounds: int, seed: int) -> None:
    """Read damaged files; anything but ValueError and OSError with a message is a defect."""
    soundfile.write(folder / "a.wav", np.zeros(4000), 8000)
    (folder / "s.list").write_text("s.tar\n")
    tables = {"wav.scp": b"r1 a.wav\n", "text": b"s1 one\ns2 [x] two\n", "segments": b"s1 r1 0 -1\ns2 r1 0 0.2 0\n"}
    whole = shard((folder / "a.wav").read_bytes())
    readers: list[tuple[str, bytes, Callable[[Path], object]]] = [
        ("raw.list", "".join(json.dumps(line) + "\n" for line in RAW).encode(), scan_manifest),
        ("s.tar", whole, lambda _: scan_manifest(folder / "s.list")),
        ("lm.arpa", ARPA, use_model),
        ("lm.arpa.gz", gzip.compress(ARPA), use_model),
        ("hot_words.txt", b"# c\nNEW YORK\t3\nx\n", read_hot_words),
        ("units.txt", b"<blank> 0\n<unk> 1\n<sos/eos> 2\na 3\n", lambda path: read_vocabulary(path, "words")),
    ]
    for name in tables:
        paths = [folder / table for table in tables]
        readers.append((name, tables[name], lambda _, paths=paths: read_corpus(*paths, special_tokens="keep")))
    for name, content in tables.items():
        (folder / name).write_bytes(content)
    rng = random.Random(seed)
    for _ in range(rounds):
        for name, content, read in readers:
            (folder / name).write_bytes(damaged(content, rng))
            try:
                read(folder / name)
            except (ValueError, OSError) as error:
                assert str(error), name
            (folder / name).write_bytes(content)


def test_damaged_lists_and_models_end_with_a_message(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fuzz(tmp_path, ROUNDS, seed=0)


@pytest.mark.slow
def test_many_damaged_lists_and_models(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    fuzz(tmp_path, SLOW_ROUNDS, seed)
