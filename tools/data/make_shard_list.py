#!/usr/bin/env python3
"""Pack the utterances of Kaldi's wav.scp and text into tar shards with 16-bit wav and text, and list the shards."""

import argparse
import io
import tarfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
from corpus_arguments import add_corpus_options, add_input_files, corpus_of
from kaldi_corpus import LONG_LIST, report_left_out
from wenet_fusion_runtime.console import HelpFormatter, run_main
from wenet_fusion_runtime.files import replacing, write_text

from wenet_fusion.data.lists.shard_index import IndexEntry, write_shard_index
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sources import Utterance, read_header, read_samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_input_files(parser)
    parser.add_argument("shards_dir", type=Path, help="folder for the shards")
    parser.add_argument("output", type=Path, help="list of shards to write")
    parser.add_argument("--num_utts_per_shard", type=int, default=1000, help="utterances per shard")
    parser.add_argument("--prefix", default="shards", help="beginning of the shards' names")
    parser.add_argument("--resample", type=int, default=0, help="sample rate of the shards; 0 keeps each file's own")
    add_corpus_options(parser, "--num_threads")
    args = parser.parse_args(arguments)
    if args.num_utts_per_shard < 1:
        raise ValueError(f"--num_utts_per_shard {args.num_utts_per_shard} must be at least 1")
    if args.resample < 0:
        raise ValueError(f"--resample {args.resample} must be a sample rate, or 0")

    utterances = corpus_of(args)
    args.shards_dir.mkdir(parents=True, exist_ok=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    size = args.num_utts_per_shard
    jobs = [
        (args.shards_dir.absolute() / f"{args.prefix}_{number:09d}.tar", utterances[first : first + size])
        for number, first in enumerate(range(0, len(utterances), size))
    ]
    shards, damaged = [], []
    workers = min(args.num_workers, len(jobs))
    # For short lists, starting processes is too slow. Processes are spawned, because forks could inherit held locks.
    in_threads = workers == 1 or len(utterances) < LONG_LIST
    pool = ThreadPoolExecutor(workers) if in_threads else ProcessPoolExecutor(workers, get_context("spawn"))
    try:
        with progress_bar(None, len(utterances), "shards", "utt") as progress:
            for (path, part), messages in zip(jobs, pool.map(write_shard, *zip(*jobs), repeat(args.resample))):
                damaged += messages
                progress.update(len(part))
                if len(messages) < len(part):
                    shards.append(path)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or a full disk, skip the rest
    report_left_out(damaged, args.allow_missing)
    write_text(args.output, "".join(f"{path}\n" for path in shards))
    written = f"{len(shards)} shard{'s' * (len(shards) != 1)}"
    print(f"{args.output}: {len(utterances) - len(damaged)} utterances in {written}")
    return 0


def write_shard(path: Path, utterances: Sequence[Utterance], sample_rate: int) -> list[str]:
    """Write KEY.txt and KEY.wav of every utterance to one tar, and its index file; equal input gives equal bytes.

    Return a message for each utterance that is left out, because it cannot be decoded. Raises OSError if `path` is not
    writable.
    """
    damaged, entries = [], []
    with replacing(path) as temporary, tarfile.open(temporary, "w") as tar:
        for utterance in utterances:
            try:
                rate = sample_rate or read_header(utterance).sample_rate
                samples = read_samples(utterance, rate)
            except (ValueError, OSError) as error:
                damaged.append(f"{utterance.key}: {error}")
                continue
            add_member(tar, f"{utterance.key}.txt", utterance.text.encode("utf-8"))
            wav = io.BytesIO()
            # Convert to int16 here, because libsndfile reads int16 as x / 32768 but writes floats as x * 32767.
            scaled = np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)
            soundfile.write(wav, scaled, rate, format="WAV", subtype="PCM_16")
            content = wav.getvalue()
            offset = add_member(tar, f"{utterance.key}.wav", content)
            entries.append(IndexEntry(utterance.key, utterance.text, offset, len(content), samples.size / rate))
    write_shard_index(path, entries)
    return damaged


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a file to the tar, with a fixed owner and date; return the byte offset of its content."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
    return tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


if __name__ == "__main__":
    run_main(main)
