"""Write the utterances of a corpus to a folder in Kaldi's format."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from wenet_fusion_runtime.files import list_problems, write_text


class CorpusUtterance(NamedTuple):
    """An utterance of a corpus: a recording and its transcript."""

    key: str
    path: Path
    text: str
    speaker: str


def write_kaldi_folder(folder: Path, utterances: Iterable[CorpusUtterance]) -> int:
    """Write wav.scp, text and utt2spk, sorted by key, with absolute paths. Return the number of utterances.

    Raises:
        ValueError: a key occurs twice, or there is no utterance; then nothing is written.
    """
    known: dict[str, CorpusUtterance] = {}
    twice = []
    for utterance in utterances:
        if utterance.key in known:
            twice.append(f"{utterance.key}: {known[utterance.key].path} and {utterance.path}")
        known[utterance.key] = utterance
    if twice:
        raise ValueError(
            f"{folder}: not written, keys occur twice; give each part of the corpus once:\n{list_problems(twice)}"
        )
    if not known:
        raise ValueError(f"{folder}: not written, the corpus has no utterance")
    found = [known[key] for key in sorted(known)]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "wav.scp", "".join(f"{item.key} {item.path.absolute()}\n" for item in found))
    write_text(folder / "text", "".join(f"{item.key} {item.text}\n" for item in found))
    write_text(folder / "utt2spk", "".join(f"{item.key} {item.speaker}\n" for item in found))
    speakers = len({item.speaker for item in found})
    print(f"{folder}: {len(found)} utterances, {speakers} speakers")
    return len(found)
