#!/usr/bin/env python3
"""Write Kaldi's wav.scp, text, utt2spk and segments from the lists of another toolkit, such as lhotse's manifests.

Example: lhotse prepare librispeech -p dev-clean LibriSpeech data/manifests
    python tools/data/corpora/prepare_manifests.py data/manifests/librispeech_supervisions_dev-clean.jsonl.gz data/dev
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kaldi_folder import CorpusUtterance, write_kaldi_folder
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

from wenet_fusion.data.lists.manifest import read_manifest
from wenet_fusion.data.sources import Utterance


def corpus_utterance(utterance: Utterance) -> CorpusUtterance:
    """Convert an utterance. Raises ValueError unless its audio is a file or a segment of a file, in all channels."""
    if utterance.source.size or utterance.source.content is not None:
        raise ValueError(f"{utterance.key}: its audio is not a file; train on the list itself with data.data_type")
    if utterance.channel is not None:
        raise ValueError(f"{utterance.key}: its audio is one channel; train on the list itself with data.data_type")
    return CorpusUtterance(
        utterance.key, Path(utterance.source.path), utterance.text, utterance.speaker or utterance.key
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "lists", type=Path, nargs="+", metavar="LIST", help="lhotse's supervisions or cuts, or a data.list"
    )
    parser.add_argument("output", type=Path, help="folder for the files of all lists together")
    args = parser.parse_args(arguments)
    utterances = [utterance for path in args.lists for utterance in read_manifest(path)]
    write_kaldi_folder(args.output, map(corpus_utterance, utterances))
    segments = {
        item.key: f"{item.key} {item.key} {item.start or 0.0} {-1 if item.end is None else item.end}\n"
        for item in utterances
        if item.start is not None or item.end is not None
    }
    if segments:
        for item in utterances:
            segments.setdefault(item.key, f"{item.key} {item.key} 0.0 -1\n")
        write_text(args.output / "segments", "".join(segments[key] for key in sorted(segments)))
    else:
        (args.output / "segments").unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    run_main(main)
