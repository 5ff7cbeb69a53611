"""The Python examples of the guides run as they stand, on a small model."""

import re
from pathlib import Path

import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak

ROOT = Path(__file__).parents[2]
ARPA = "\\data\\\nngram 1=4\n\n\\1-grams:\n-1\t<s>\n-1\t</s>\n-1\ta\n-1\tb\n\n\\end\\\n"
EXAMPLES = {
    "README.md": ["a b\n"],
    "runtime/README.md": ["a b\n", "final: a b\n"],
    "docs/decoding.md": [" a b\n"],
    "docs/engine.md": ["a b\n"],
    "docs/grammars.md": ["a b\n"],
    "docs/hot-words.md": ["a b\n" * 3],
    "docs/language-models.md": ["a b -"],
}  # text that each example must print


@pytest.mark.parametrize(
    ("page", "number", "printed"),
    [(page, number, text) for page, texts in EXAMPLES.items() for number, text in enumerate(texts)],
)
def test_examples_run(
    page: str,
    number: int,
    printed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = re.findall(r"```python\n(.+?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)[number]
    save_archive(tmp_path / "final.zip")
    for name in ("recording.wav", "recording.flac", "speech.wav", "yweweler-dev-00088.wav"):
        soundfile.write(tmp_path / name, speak("ab"), SAMPLE_RATE)
    (tmp_path / "hot_words.txt").write_text("a\t2\n")
    (tmp_path / "codes.arpa").write_text(ARPA)
    monkeypatch.chdir(tmp_path)
    # The words of this model are letters.
    example = example.replace('"NINE"', '"a"').replace("ONE TWO", "a b")
    exec(compile(example, page, "exec"), {})
    assert printed in capsys.readouterr().out
