"""Estimate n-gram models with KenLM's `lmplz` (Heafield et al., 2013), for texts of any size."""

import gzip
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from wenet_fusion_runtime.files import replacing


def find_lmplz() -> str | None:
    """Return the path of the program, or None if it is not installed."""
    return shutil.which("lmplz")


def train_with_lmplz(
    program: str, sentences: Iterable[Sequence[str]], path: Path, thresholds: Sequence[int]
) -> tuple[int, int]:
    """Write the model of `sentences` to `path`; a path *.gz is compressed. Return the numbers of words and sentences.

    Args:
        program: path of lmplz.
        thresholds: for each order, leave out n-grams with at most this count.
    Raises:
        ValueError: the text holds no word, or lmplz failed; the message ends with the last line of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        text, arpa = Path(folder, "text"), Path(folder, "arpa")
        total, count = 0, 0
        with open(text, "w", encoding="utf-8") as file:
            for sentence in sentences:
                file.write(" ".join(sentence) + "\n")
                total, count = total + len(sentence), count + 1
        if not total:
            raise ValueError(f"{path} is not written: there is no word in the text")
        command = [program, "-o", str(len(thresholds)), "--discount_fallback", "-T", folder, "-S", "50%"]
        command += ["--text", str(text), "--arpa", str(arpa), "--prune", *map(str, thresholds)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"lmplz failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        opened = gzip.open if path.suffix == ".gz" else open
        with replacing(path) as temporary, open(arpa, "rb") as source, opened(temporary, "wb") as target:
            shutil.copyfileobj(source, target)
    return total, count


def sizes_of(path: Path) -> list[int]:
    """Return the number of n-grams of each order, as stated in the header of an ARPA file."""
    sizes = []
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line.startswith("ngram "):
                sizes.append(int(line.partition("=")[2]))
            elif sizes:
                break
    return sizes
