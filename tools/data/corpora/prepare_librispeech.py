#!/usr/bin/env python3
"""Write Kaldi's wav.scp, text and utt2spk for parts of LibriSpeech: folders of SPEAKER/CHAPTER/*.flac and *.trans.txt.

Example: python tools/data/corpora/prepare_librispeech.py LibriSpeech/train-clean-{100,360} data/train
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from kaldi_folder import CorpusUtterance, write_kaldi_folder
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import list_problems, read_lines


def read_part(part: Path) -> Iterator[CorpusUtterance]:
    """Yield the utterances of a part such as train-clean-100.

    Raises:
        OSError: the folder is missing.
        ValueError: the folder has no transcripts, or recordings and transcripts do not match.
    """
    if not part.is_dir():
        raise FileNotFoundError(f"{part}: no such folder; give a part of LibriSpeech such as LibriSpeech/dev-clean")
    tables = sorted(part.glob("*/*/*.trans.txt"))
    if not tables:
        raise ValueError(f"{part}: has no SPEAKER/CHAPTER/*.trans.txt; give a part such as LibriSpeech/dev-clean")
    problems = []
    for table in tables:
        recordings = {path.stem: path for path in table.parent.glob("*.flac")}
        for line in read_lines(table):
            key, _, text = line.strip().partition(" ")
            path = recordings.pop(key, None)
            if path is None:
                problems.append(f"{table}: {key} has no recording {key}.flac")
            else:
                yield CorpusUtterance(key, path, text, key.partition("-")[0])
        problems += [f"{path}: has no transcript in {table.name}" for path in sorted(recordings.values())]
    if problems:
        raise ValueError(
            f"{part}: {len(problems)} recordings or transcripts are missing; unpack the archive again:\n"
            f"{list_problems(problems)}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", type=Path, nargs="+", metavar="PART", help="folder such as LibriSpeech/dev-clean")
    parser.add_argument("output", type=Path, help="folder for wav.scp, text and utt2spk of all parts together")
    args = parser.parse_args(arguments)
    write_kaldi_folder(args.output, (utterance for part in args.parts for utterance in read_part(part)))
    return 0


if __name__ == "__main__":
    run_main(main)
