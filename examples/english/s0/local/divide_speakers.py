"""Stage 0: divide recorded English among training, dev and test set by speaker; gather text for a language model."""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

from wenet_fusion.data.lists.kaldi import read_table

LAYOUT = """FOLDER holds
  english/{train,dev}/{wav.scp,text,utt2spk}   Kaldi's format; paths start at FOLDER/english
  LibriSpeech/{train-clean-100,dev-clean}      optional: LibriSpeech's layout, or a part of it
  text/*.txt.gz                                optional: sentences for the language model"""


class Utterance(NamedTuple):
    """A recording of a sentence."""

    key: str
    path: Path
    text: str
    speaker: str
    group: str  # corpus of the speaker, for error rates by group


def read_kaldi(folder: Path, root: Path) -> Iterator[Utterance]:
    """Read a Kaldi folder whose paths start at `root`.

    Raises:
        OSError, ValueError: a file is missing or wrong.
    """
    paths, texts, speakers = (read_table(folder / name) for name in ("wav.scp", "text", "utt2spk"))
    for key, path in paths.items():
        if key not in texts or key not in speakers:
            raise ValueError(f"{folder}: {key} of wav.scp is missing in text or utt2spk")
        yield Utterance(key, root / path, texts[key], speakers[key], GROUPS.get(speakers[key][:2], "other"))


GROUPS = {"so": "speechocean762", "ls": "librispeech", "ka": "kathleen"}


def read_librispeech(folder: Path) -> Iterator[Utterance]:
    """Read LibriSpeech's layout, `SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt` beside its FLAC files."""
    for transcripts in sorted(folder.glob("*/*/*.trans.txt")):
        speaker = transcripts.parent.parent.name
        for key, text in read_table(transcripts).items():
            yield Utterance(key, transcripts.parent / f"{key}.flac", text, f"ls{speaker}", "librispeech")


def halves(utterances: Iterable[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """Divide speakers in two, alternately within each group: nobody is in both halves."""
    found = list(utterances)
    places: dict[str, int] = {}
    for group in sorted({each.group for each in found}):
        speakers = sorted({each.speaker for each in found if each.group == group})
        places |= {speaker: number % 2 for number, speaker in enumerate(speakers)}
    first, second = ([each for each in found if places[each.speaker] == half] for half in (0, 1))
    return first, second


def write_set(utterances: Sequence[Utterance], folder: Path) -> None:
    """Write wav.scp, text, utt2spk and utt2group, and print the size of the set."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(utterances)
    for name, values in (
        ("wav.scp", [str(each.path.resolve()) for each in ordered]),
        ("text", [each.text for each in ordered]),
        ("utt2spk", [each.speaker for each in ordered]),
        ("utt2group", [each.group for each in ordered]),
    ):
        lines = (f"{each.key} {value}\n" for each, value in zip(ordered, values, strict=True))
        write_text(folder / name, "".join(lines))
    speakers = {each.speaker for each in ordered}
    print(f"{folder}: {len(ordered)} utterances of {len(speakers)} speakers")


def prepare(source: Path, output: Path) -> None:
    """Write the three sets and text/lm.txt.

    Args:
        source: folder in the layout that `--help` shows.
        output: gets train/, dev/, test/ and text/.
    Raises:
        OSError, ValueError: a file is missing or wrong, or a speaker of the training set is in another one.
    """
    english, libri = source / "english", source / "LibriSpeech"
    train = [*read_kaldi(english / "train", english), *read_librispeech(libri / "train-clean-100")]
    dev, test = halves([*read_kaldi(english / "dev", english), *read_librispeech(libri / "dev-clean")])
    if shared := {each.speaker for each in train} & {each.speaker for each in [*dev, *test]}:
        raise ValueError(f"{source}: speakers of the training set are also in dev: {', '.join(sorted(shared))}")
    sentences = [each.text for each in train]
    for path in sorted((source / "text").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            sentences += [line.strip() for line in file]
    held_out = {each.text for each in [*dev, *test]}
    kept = [line for line in sentences if line and line not in held_out]
    for name, utterances in (("train", train), ("dev", dev), ("test", test)):
        write_set(utterances, output / name)
    (output / "text").mkdir(exist_ok=True)
    write_text(output / "text" / "lm.txt", "\n".join(kept) + "\n")
    print(f"{output / 'text' / 'lm.txt'}: {len(kept)} sentences, none of them in dev or test")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n\n{LAYOUT}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="FOLDER")
    parser.add_argument("output", type=Path, help="folder that gets train/, dev/, test/ and text/")
    args = parser.parse_args(arguments)
    if not (args.source / "english" / "train" / "wav.scp").is_file():
        print(f"error: {args.source}: no english/train/wav.scp in it\n{LAYOUT}", file=sys.stderr)
        return 1
    prepare(args.source, args.output)
    return 0


if __name__ == "__main__":
    run_main(main)
