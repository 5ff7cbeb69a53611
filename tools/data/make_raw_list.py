#!/usr/bin/env python3
"""Write a raw data.list, with a JSON object for each utterance, from Kaldi's wav.scp and text."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from corpus_arguments import add_corpus_options, add_input_files, corpus_of
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import printable, write_text

from wenet_fusion.data.lists.kaldi import read_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_input_files(parser)
    parser.add_argument("output", type=Path, help="data.list to write")
    parser.add_argument("--utt2spk", type=Path, help="lines 'key speaker', to write the speakers into the list")
    add_corpus_options(parser)
    args = parser.parse_args(arguments)

    speakers = {} if args.utt2spk is None else read_table(args.utt2spk)
    utterances = corpus_of(args)
    nameless = [utterance.key for utterance in utterances if args.utt2spk and not speakers.get(utterance.key)]
    if nameless:
        count = f"{len(nameless)} of {len(utterances)} utterances"
        raise ValueError(f"{args.utt2spk}: {count} have no speaker, such as {nameless[0]}; add them, or omit --utt2spk")
    lines = []
    for utterance in utterances:
        record: dict[str, object] = {"key": utterance.key, "wav": utterance.source.path, "txt": utterance.text}
        if utterance.key in speakers:
            record |= {"speaker": speakers[utterance.key]}
        if utterance.channel is not None:
            record |= {"channel": utterance.channel}
        if utterance.start is not None:
            record |= {"start": utterance.start, "end": -1 if utterance.end is None else utterance.end}
        is_utf8 = printable(utterance.source.path) == utterance.source.path
        line = json.dumps(record | {"duration": round(utterance.seconds, 6)}, ensure_ascii=not is_utf8)
        lines.append(line + "\n")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.output, "".join(lines))
    hours = sum(utterance.seconds for utterance in utterances) / 3600
    print(f"{args.output}: {len(utterances)} utterances, {hours:.2f} h")
    return 0


if __name__ == "__main__":
    run_main(main)
