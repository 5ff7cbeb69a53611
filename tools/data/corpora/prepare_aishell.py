#!/usr/bin/env python3
"""Write Kaldi's wav.scp, text and utt2spk for the train, dev and test set of AISHELL-1.

The recordings are wav/{train,dev,test}/SPEAKER/*.wav. Spaces between words are removed from the transcripts, because
the tokens are characters.

Example: python tools/data/corpora/prepare_aishell.py data_aishell data
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kaldi_folder import CorpusUtterance, write_kaldi_folder
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import list_problems, read_lines

SETS = ("train", "dev", "test")
TRANSCRIPT = Path("transcript") / "aishell_transcript_v0.8.txt"


def read_transcript(path: Path) -> dict[str, str]:
    """Read lines "key word word ..." by key; join the words, and write Latin letters in upper case. Raises OSError."""
    rows = (line.split() for line in read_lines(path))
    return {row[0]: "".join(row[1:]).upper() for row in rows if row}


def read_sets(corpus: Path) -> dict[str, list[CorpusUtterance]]:
    """Read the utterances of every set. Recordings without a transcript are left out and counted.

    Raises:
        OSError: the transcript or a set is missing.
        ValueError: the archive of a speaker is not unpacked, or a transcript has no recording.
    """
    if not (corpus / TRANSCRIPT).is_file():
        raise FileNotFoundError(f"{corpus / TRANSCRIPT}: no such file; give the folder data_aishell")
    packed = sorted((corpus / "wav").glob("*.tar.gz"))
    if packed:
        raise ValueError(
            f"{packed[0]}: {len(packed)} speakers are not unpacked: in {packed[0].parent} run "
            "'for f in *.tar.gz; do tar xzf $f && rm $f; done'"
        )
    texts = read_transcript(corpus / TRANSCRIPT)
    found: dict[str, list[CorpusUtterance]] = {}
    untranscribed = 0
    for name in SETS:
        recordings = sorted((corpus / "wav" / name).glob("*/*.wav"))
        if not recordings:
            raise FileNotFoundError(f"{corpus / 'wav' / name}: has no SPEAKER/*.wav; unpack data_aishell.tgz again")
        found[name] = [
            CorpusUtterance(path.stem, path, texts[path.stem], path.parent.name)
            for path in recordings
            if path.stem in texts
        ]
        untranscribed += len(recordings) - len(found[name])
    missing = sorted(texts.keys() - {item.key for utterances in found.values() for item in utterances})
    if missing:
        raise ValueError(
            f"{corpus}: {len(missing)} of {len(texts)} transcripts have no recording; unpack data_aishell.tgz again:\n"
            f"{list_problems(missing)}"
        )
    if untranscribed:
        print(f"note: {untranscribed} recordings have no transcript and are left out, as in recipes of other toolkits")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder data_aishell with wav/ and transcript/")
    parser.add_argument("output", type=Path, help="folder for train/, dev/ and test/")
    args = parser.parse_args(arguments)
    for name, utterances in read_sets(args.corpus).items():
        write_kaldi_folder(args.output / name, utterances)
    return 0


if __name__ == "__main__":
    run_main(main)
