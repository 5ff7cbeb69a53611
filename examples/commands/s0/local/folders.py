"""Read the folders of the recipe's recorded and synthetic speech."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from wenet_fusion.data.lists.kaldi import read_table


class Utterance(NamedTuple):
    """A recording and its transcript, which may be empty."""

    key: str
    path: Path
    text: str
    speaker: str


def read_folder(folder: Path, root: Path | None = None, with_rejected: bool = False) -> list[Utterance]:
    """Return the utterances of a folder in Kaldi's format.

    Args:
        folder: holds wav.scp, text and possibly utt2spk.
        root: folder of relative paths; None: the working folder.
        with_rejected: also return utterances that are not in the list `kept`, which `check_speech.py` writes.

    Raises:
        OSError, ValueError: a list is missing or damaged, or lacks an utterance.
    """
    paths, texts = read_table(folder / "wav.scp"), read_table(folder / "text")
    speakers = read_table(folder / "utt2spk") if (folder / "utt2spk").exists() else {}
    has_verdicts = not with_rejected and (folder / "kept").exists()
    kept = set(read_table(folder / "kept")) if has_verdicts else set(paths)
    if missing := sorted((paths.keys() & kept) - texts.keys()):
        raise ValueError(f"{folder / 'text'}: lacks {missing[0]}, which is in wav.scp; add its transcript")
    root = root or Path()
    return [
        Utterance(key, (root / paths[key]).absolute(), texts[key], speakers.get(key, folder.name))
        for key in paths
        if key in kept
    ]
