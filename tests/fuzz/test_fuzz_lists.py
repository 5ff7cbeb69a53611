"""Data lists, shards, tables, vocabularies, hot words and language models."""

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st
from support.data.list_readers import ARPA, PIECES, RAW, language_models, lists, use_model
from support.runtime.fuzzing import changed_record, damaged, fuzz

from wenet_fusion.data.lists.manifest import scan_manifest
from wenet_fusion.data.sources import read_samples

pytestmark = pytest.mark.slow
NUMBERS = ["0", "-0.5", "-99", "1", "-1e400", "nan", "-inf", "", "x", "1,5"]
WORDS = ["a", "<s>", "</s>", "<unk>", "b", "", "\u200b", "<S>"]


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)


def test_damaged_lists(tmp_path: Path) -> None:
    files = lists(tmp_path)

    def check(value: tuple[int, bytes]) -> None:
        name, content, read = files[value[0]]
        (tmp_path / name).write_bytes(value[1])
        try:
            read(tmp_path / name)
        finally:
            (tmp_path / name).write_bytes(content)

    numbers = st.integers(0, len(files) - 1)
    fuzz(numbers.flatmap(lambda n: st.tuples(st.just(n), damaged([files[n].content], PIECES))), check, share=0.08)


def test_entries_with_any_values(tmp_path: Path) -> None:
    """Lines of JSON with other values: listed utterances can be read, or the error says why not."""
    lists(tmp_path)

    def check(records: list[dict]) -> None:
        (tmp_path / "raw.list").write_text("".join(json.dumps(record) + "\n" for record in records))
        for utterance in scan_manifest(tmp_path / "raw.list").utterances:
            assert 0 <= utterance.seconds < 1e10
            try:
                assert len(read_samples(utterance, 8000))
            except (ValueError, OSError) as error:
                assert "a.wav" in str(error)

    fuzz(st.lists(changed_record(RAW), min_size=1, max_size=3), check, share=0.08)


@st.composite
def arpa(draw: st.DrawFn) -> bytes:
    """A language model of orders 1 to 3, whose counts, numbers and words may be wrong."""
    orders = draw(st.integers(0, 3))
    grams = [
        draw(st.lists(st.tuples(st.sampled_from(NUMBERS), *[st.sampled_from(WORDS)] * order), max_size=6))
        for order in range(1, orders + 1)
    ]
    wrong = draw(st.integers(-1, 1)) if draw(st.booleans()) else 0
    head = "".join(f"ngram {order}={len(found) + wrong}\n" for order, found in enumerate(grams, 1))
    body = ""
    for order, found in enumerate(grams, 1):
        lines = [f"{number}\t{' '.join(words)}\t{draw(st.sampled_from(NUMBERS))}" for number, *words in found]
        body += f"\n\\{order}-grams:\n" + "\n".join(lines) + "\n"
    return f"\\data\\\n{head}{body}\n\\end\\\n".encode()


def test_damaged_language_models(tmp_path: Path) -> None:
    packed = language_models()[1].content

    def check(content: bytes) -> None:
        path = tmp_path / f"lm.arpa{'.gz' * content.startswith(packed[:2])}"
        path.write_bytes(content)
        use_model(path)

    fuzz(st.one_of(damaged([ARPA, packed], PIECES), arpa()), check, share=0.08, place="lm.arpa")
