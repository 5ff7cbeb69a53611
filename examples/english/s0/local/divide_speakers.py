"""Stage 0: divide recordings by speaker into training, dev and test set; collect text for a language model."""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

from wenet_fusion.data.lists.kaldi import read_table

GROUPS = {"so": "speechocean762", "ka": "kathleen"}  # by the first two letters of the speaker


class Utterance(NamedTuple):
    """A recording of a sentence."""

    key: str
    path: Path
    text: str
    speaker: str

    @property
    def group(self) -> str:
        """Corpus that the speaker belongs to, for error rates by group."""
        return "librispeech" if self.speaker.isdigit() else GROUPS.get(self.speaker[:2], "other")


def read_folder(folder: Path) -> Iterator[Utterance]:
    """Yield the utterances of a folder in Kaldi's format; relative paths start at its parent folder.

    Raises:
        OSError, ValueError: a file is missing or wrong.
    """
    paths, texts, speakers = (read_table(folder / name) for name in ("wav.scp", "text", "utt2spk"))
    for key, path in paths.items():
        if key not in texts or key not in speakers:
            raise ValueError(f"{folder}: {key} of wav.scp is missing in text or utt2spk")
        # The same speaker is "ls84" in one corpus and "84" in another.
        speaker = speakers[key].removeprefix("ls")
        yield Utterance(key, folder.absolute().parent / path, texts[key], speaker)


def halves(utterances: Iterable[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """Divide the speakers of each group alternately between two halves; return the utterances of each half."""
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
        ("wav.scp", [str(each.path) for each in ordered]),
        ("text", [each.text for each in ordered]),
        ("utt2spk", [each.speaker for each in ordered]),
        ("utt2group", [each.group for each in ordered]),
    ):
        lines = (f"{each.key} {value}\n" for each, value in zip(ordered, values, strict=True))
        write_text(folder / name, "".join(lines))
    speakers = {each.speaker for each in ordered}
    print(f"{folder}: {len(ordered)} utterances of {len(speakers)} speakers")


def divide(train: Sequence[Path], held_out: Sequence[Path], texts: Sequence[Path], output: Path) -> None:
    """Write train/, dev/, test/ and text/lm.txt.

    Args:
        train: folders in Kaldi's format, for training.
        held_out: folders whose speakers are divided between dev and test set.
        texts: gzip-compressed files with one sentence per line.
        output: folder to write to.
    Raises:
        OSError, ValueError: a file is missing or wrong, or a speaker of the training set is also held out.
    """
    training = [each for folder in train for each in read_folder(folder)]
    dev, test = halves(each for folder in held_out for each in read_folder(folder))
    if shared := {each.speaker for each in training} & {each.speaker for each in [*dev, *test]}:
        raise ValueError(f"speakers of the training set are also held out: {', '.join(sorted(shared))}; take them out")
    sentences = [each.text for each in training]
    for path in texts:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            sentences += [line.strip() for line in file]
    tested = {each.text for each in [*dev, *test]}
    kept = [line for line in sentences if line and line not in tested]
    for name, utterances in (("train", training), ("dev", dev), ("test", test)):
        write_set(utterances, output / name)
    (output / "text").mkdir(exist_ok=True)
    write_text(output / "text" / "lm.txt", "\n".join(kept) + "\n")
    print(f"{output / 'text' / 'lm.txt'}: {len(kept)} sentences, none of them in dev or test")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, nargs="+", required=True, metavar="FOLDER", help="training folders")
    parser.add_argument("--held_out", type=Path, nargs="+", required=True, metavar="FOLDER", help="folders to divide")
    parser.add_argument("--text", type=Path, nargs="*", default=[], metavar="FILE", help="sentences, in *.txt.gz")
    parser.add_argument("--output", type=Path, required=True, help="folder for train/, dev/, test/ and text/")
    args = parser.parse_args(arguments)
    divide(args.train, args.held_out, args.text, args.output)
    return 0


if __name__ == "__main__":
    run_main(main)
