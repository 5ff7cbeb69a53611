"""Valid lists, shards, tables, vocabularies, hot words and language models, each with the function that reads it."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from kaldi_corpus import read_corpus
from wenet_fusion_runtime.search.hot_words import read_hot_words
from wenet_fusion_runtime.search.language_models.language_model import load_language_model

from wenet_fusion.data.lists.manifest import scan_manifest
from wenet_fusion.text.vocabulary_file import read_vocabulary

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
TABLES = {"wav.scp": b"r1 a.wav\n", "text": b"s1 one\ns2 [x] two\n", "segments": b"s1 r1 0 -1\ns2 r1 0 0.2 0\n"}


class Readable(NamedTuple):
    """The name of a file, its content, and the function that reads it."""

    name: str
    content: bytes
    read: Callable[[Path], object]


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
    """Load a language model, and check that its scores of words are finite and never above 0."""
    model = load_language_model(path)
    state = model.start()
    for word in ("a", "zebra", ""):
        log_prob, state = model.advance(state, word)
        assert -1e6 < log_prob <= 0
    assert -1e6 < model.finish(state) <= 0


def language_models() -> list[Readable]:
    """Return language models, plain and packed."""
    return [Readable("lm.arpa", ARPA, use_model), Readable("lm.arpa.gz", gzip.compress(ARPA), use_model)]


def lists(folder: Path) -> list[Readable]:
    """Write the audio and the tables to a folder; return the lists that name them."""
    soundfile.write(folder / "a.wav", np.zeros(4000), 8000)
    (folder / "s.list").write_text("s.tar\n")
    for name, content in TABLES.items():
        (folder / name).write_bytes(content)
    paths = [folder / table for table in TABLES]
    return [
        Readable("raw.list", "".join(json.dumps(line) + "\n" for line in RAW).encode(), scan_manifest),
        Readable("s.tar", shard((folder / "a.wav").read_bytes()), lambda _: scan_manifest(folder / "s.list")),
        Readable("hot_words.txt", b"# c\nNEW YORK\t3\nx\n", read_hot_words),
        Readable("units.txt", b"<blank> 0\n<unk> 1\n<sos/eos> 2\na 3\n", lambda path: read_vocabulary(path, "words")),
        *(Readable(name, TABLES[name], lambda _: read_corpus(*paths, special_tokens="keep")) for name in TABLES),
    ]
