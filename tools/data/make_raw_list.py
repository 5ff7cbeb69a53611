#!/usr/bin/env python3
"""Write a raw data.list, one JSON object per utterance, from Kaldi's wav.scp and text."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from kaldi_corpus import SPECIAL_TOKEN_HELP, add_worker_options, commands_folder, read_corpus, settle_left_out
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import printable, write_text

from wenet_fusion.text.special_tokens import SPECIAL_TOKEN_CHOICES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wav_scp", type=Path, help="lines 'key path'; with --segments, the keys are recordings")
    parser.add_argument("text", type=Path, help="lines 'key transcript'; the transcript may be empty")
    parser.add_argument("output", type=Path, help="data.list to write")
    parser.add_argument(
        "--segments", type=Path, help="lines 'key recording start end', times in seconds; end -1: to the end"
    )
    parser.add_argument(
        "--reco2file_and_channel", type=Path, help="lines 'recording file channel'; the channel is A, B or from 1"
    )
    parser.add_argument("--special_tokens", choices=SPECIAL_TOKEN_CHOICES, default="refuse", help=SPECIAL_TOKEN_HELP)
    parser.add_argument(
        "--allow_missing", action="store_true", help="leave out utterances without audio or text instead of stopping"
    )
    add_worker_options(parser)
    args = parser.parse_args(arguments)

    utterances, left_out = read_corpus(
        args.wav_scp,
        args.text,
        args.segments,
        args.special_tokens,
        args.reco2file_and_channel,
        args.num_workers,
        commands_folder(args.output, args.allow_commands),
    )
    settle_left_out(left_out, args.allow_missing)
    lines = []
    for utterance in utterances:
        record: dict[str, object] = {"key": utterance.key, "wav": utterance.source.path, "txt": utterance.text}
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
