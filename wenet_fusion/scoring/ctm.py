"""Read CTM files: words with timestamps, by utterance. The runtime and forced alignment write such files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from wenet_fusion_runtime.files import list_problems, read_lines
from wenet_fusion_runtime.results.result import Word


def read_ctm(path: Path) -> dict[str, list[Word]]:
    """Read words by key, in the order of their lines: `key channel start duration word [confidence]`, in seconds.

    Lines that begin with `;;` are comments. A word without confidence gets a confidence of 1.

    Raises:
        ValueError: a line has another form; the message lists the first such lines.
        OSError: the file cannot be read.
    """
    words: dict[str, list[Word]] = {}
    problems = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        try:
            key, _, start, duration, text, *rest = line.split()
            (confidence,) = map(float, rest or ["1"])
            word = Word(text, float(start), float(start) + float(duration), confidence)
            if not 0 <= word.start_seconds <= word.end_seconds < float("inf"):
                raise ValueError
        except ValueError:
            problems.append(f"{path}:{number}: not 'key channel start duration word [confidence]': {line!r}")
            continue
        words.setdefault(key, []).append(word)
    if problems:
        raise ValueError(list_problems(problems))
    return words


def read_word_times(path: Path | None, texts: Mapping[str, str]) -> dict[str, list[Word]]:
    """Read the words of utterances with their times, by key; without a file, return an empty dict.

    Args:
        path: the CTM file; None: no file.
        texts: transcripts by key; the file may lack some, see `keys_without_words`.

    Raises:
        OSError, ValueError: the file cannot be read, is malformed, or belongs to other utterances.
    """
    words = {} if path is None else read_ctm(path)
    if path is not None:
        keys_without_words(words, texts, path)
    return words


def keys_without_words(words: Mapping[str, Sequence[Word]], texts: Mapping[str, str], path: Path) -> list[str]:
    """Return the keys of `texts` whose words the CTM file lacks; empty texts need no words.

    Args:
        words: content of the CTM file by key.
        texts: transcripts by key.
        path: path of the CTM file, for messages.

    Raises:
        ValueError: the file has no words for any of the texts, so it is empty or belongs to other utterances.
    """
    with_words = [key for key, text in texts.items() if text.split()]
    missing = [key for key in with_words if key not in words]
    if missing and not words:
        raise ValueError(f"{path}: holds no word; give the CTM file of the same data")
    if missing and len(missing) == len(with_words):
        raise ValueError(
            f"{path}: belongs to other utterances: its first is {next(iter(words))}, and it has none of the "
            f"{len(missing)} that are needed, such as {missing[0]}; give the CTM file of the same data"
        )
    return missing
