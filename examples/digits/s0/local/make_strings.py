"""Stage 0: make digit strings (Kaldi folders with wav files) from recordings of single digits.

Each string has its own random generator, with the key (seed, split, string), so a split does not depend on the others.
Only the training strings depend on --seed: dev and test are the same for every training seed.
"""

import argparse
import io
import json
import shutil
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from recordings import SPLITS, Take, list_takes, read_takes
from strings import DigitString, StringPlan, empty_string, plan_strings, speak
from tqdm import tqdm
from wenet_fusion_runtime.console import run_main

HELD_OUT_SEED = 20_240
LONGEST_EMPTY_SECONDS = 6.0  # for strings without words in the training set; `empty_string` says why
LONGEST_SILENCE_SECONDS = 30.0


def render(
    split: str,
    plans: list[StringPlan],
    empty: int,
    longest_empty_seconds: float,
    samples: dict[Take, np.ndarray],
    sample_rate: int,
    seed: int,
) -> Iterator[DigitString]:
    """Yield the strings of a split: one for each of `plans`, then `empty` strings of non-speech."""
    takes = list(samples)
    for index, plan in enumerate(plans):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        yield speak(f"{plan.speaker}-{split}-{index:05d}", plan, samples, sample_rate, rng)
    for index in range(empty):
        rng = np.random.default_rng([seed, SPLITS.index(split), len(plans) + index])
        key = f"empty-{split}-{index:05d}"
        yield empty_string(key, index, takes, samples, sample_rate, rng, longest_empty_seconds)


def write_wav(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write mono 16-bit audio with the standard library; writing by libsndfile would take half of the stage's time."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, sample_rate, len(samples), "NONE", ""))
        file.writeframes(np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes())
    path.write_bytes(content.getbuffer())


def write_kaldi(folder: Path, strings: Iterator[DigitString], count: int, sample_rate: int) -> tuple[int, float]:
    """Write wav/, wav.scp, text, utt2spk and words.ctm to a folder that replaces `folder` at the end. Return the number
    of words and seconds.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "wav").mkdir(parents=True)
    lines: dict[str, dict[str, str]] = {"wav.scp": {}, "text": {}, "utt2spk": {}, "words.ctm": {}}
    words, seconds = 0, 0.0
    for string in tqdm(strings, total=count, desc=folder.name, unit="string", leave=False, disable=None):
        key = string.key
        write_wav(unfinished / "wav" / f"{key}.wav", string.samples, sample_rate)
        lines["wav.scp"][key] = f"{key} {folder.resolve()}/wav/{key}.wav\n"
        lines["text"][key] = " ".join([key, *(word.text for word in string.words)]) + "\n"
        lines["utt2spk"][key] = f"{key} {string.speaker}\n"
        lines["words.ctm"][key] = "".join(
            f"{key} 1 {word.start / sample_rate:.6f} {word.length / sample_rate:.6f} {word.text}\n"
            for word in string.words
        )
        words += len(string.words)
        seconds += len(string.samples) / sample_rate
    for name, entries in lines.items():
        (unfinished / name).write_text("".join(entries[key] for key in sorted(entries)))
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return words, seconds


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="source.json of stage -1")
    parser.add_argument("--output", type=Path, required=True, help="folder for train/, dev/, test/ and silence/")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training strings")
    parser.add_argument("--train", type=int, default=4000, help="number of training strings (default: 4000)")
    parser.add_argument("--dev", type=int, default=300, help="number of development strings (default: 300)")
    parser.add_argument("--test", type=int, default=400, help="number of test strings (default: 400)")
    parser.add_argument("--longest_string", type=int, default=7, help="digits in the longest strings (default: 7)")
    parser.add_argument("--silence", type=int, default=40, help="recordings without words in silence/ (default: 40)")
    parser.add_argument(
        "--empty_share", type=float, default=0.16, help="share of training strings without words (default: 0.16)"
    )
    parser.add_argument(
        "--backwards_share", type=float, default=0.12,
        help="share of the gaps before, between and after the digits of training strings in which a take is played"
        " backwards (default: 0.12)",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    for name in ("empty_share", "backwards_share"):
        share = getattr(args, name)
        if not 0 <= share < 1:
            raise ValueError(f"--{name} {share:g}: a share is from 0 to less than 1")
    if args.longest_string < 1:
        raise ValueError(f"--longest_string {args.longest_string}: must be at least 1")
    source = json.loads(args.source.read_text())
    takes = list_takes(Path(source["recordings"]))
    samples, sample_rate = read_takes(takes)
    folders = {"train": args.train, "dev": args.dev, "test": args.test, "silence": args.silence}
    for name, count in folders.items():
        split = "test" if name == "silence" else name
        seed = args.seed if name == "train" else HELD_OUT_SEED + (name == "silence")
        empty = {"train": round(args.empty_share * count), "silence": count}.get(name, 0)
        own = {take: samples[take] for take in takes if take.split == split}
        rng = np.random.default_rng([seed, SPLITS.index(split)])
        backwards = args.backwards_share if name == "train" else 0.0
        plans = plan_strings(list(own), count - empty, args.longest_string, rng, backwards)
        longest = LONGEST_SILENCE_SECONDS if name == "silence" else LONGEST_EMPTY_SECONDS
        strings = render(split, plans, empty, longest, own, sample_rate, seed)
        words, seconds = write_kaldi(args.output / name, strings, count, sample_rate)
        print(f"{name:8}{count:6} strings,{empty:4} of them without a word,{words:6} words,{seconds / 60:7.1f} min")
    return 0


if __name__ == "__main__":
    run_main(main)
