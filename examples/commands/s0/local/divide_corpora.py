"""Stage 0: collect recorded and synthetic speech into sets; no speaker of a dev or test set is in the training set.

The training set repeats recordings, because there is more synthetic than recorded speech.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
from folders import Utterance, read_folder
from tqdm import tqdm
from wenet_fusion_runtime import load_audio
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

_SAMPLE_RATE = 16000
_DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
_DEV_DIGITS_SPEAKER = "yweweler"
_DEV_SHARE = 12  # one in 12 speakers of the English training recordings is a dev speaker
_REPEATS = {"english": 2, "librispeech": 2, "digits": 2}


def is_dev_speaker(speaker: str, speakers: Sequence[str]) -> bool:
    """Return whether a speaker of the English training recordings belongs to the dev set."""
    return sorted(speakers).index(speaker) % _DEV_SHARE == 5


def refuse_shared_speakers(train: Iterable[Utterance], test: Iterable[Utterance]) -> None:
    """Raise ValueError if a test set and the training set share a speaker; "ls84" is LibriSpeech's "84"."""
    trained, tested = ({each.speaker.removeprefix("ls") for each in part} for part in (train, test))
    if shared := sorted(trained & tested):
        raise ValueError(
            f"speakers of english/dev or dev-clean are also in the training set: {', '.join(shared[:9])}; take them "
            "out of english/train or train-clean-100"
        )


def join_digits(recordings: Path, output: Path, strings_per_speaker: int, seed: int) -> Iterator[Utterance]:
    """Join recorded digits (Free Spoken Digit Dataset) to strings of one speaker each; write and yield the strings."""
    rng = np.random.default_rng(seed)
    takes: dict[str, list[Path]] = {}
    for path in sorted(recordings.glob("[0-9]_?*_*.wav")):
        takes.setdefault(path.stem.split("_")[1], []).append(path)
    if not takes:
        raise ValueError(f"{recordings}: holds no recordings DIGIT_SPEAKER_NUMBER.wav")
    output.mkdir(parents=True, exist_ok=True)
    for speaker, paths in tqdm(sorted(takes.items()), desc="digit strings", unit="speaker", disable=None):
        audio = {path: _read(path) for path in paths}
        for number in range(strings_per_speaker):
            chosen = [paths[place] for place in rng.integers(len(paths), size=rng.choice([1, 2, 3, 4, 6, 8]))]
            pieces = [np.zeros(int(rng.uniform(0.05, 0.4) * _SAMPLE_RATE), np.float32)]
            for path in chosen:
                pieces += [audio[path], np.zeros(int(rng.uniform(0, 0.35) * _SAMPLE_RATE), np.float32)]
            samples = np.concatenate(pieces)
            samples += rng.standard_normal(samples.size, dtype=np.float32) * np.float32(10 ** rng.uniform(-4, -2.7))
            path = output / f"{speaker}-{number:04d}.flac"
            soundfile.write(path, np.clip(samples, -1, 1), _SAMPLE_RATE, subtype="PCM_16")
            text = " ".join(_DIGITS[int(each.name[0])] for each in chosen)
            yield Utterance(f"digits-{speaker}-{number:04d}", path.absolute(), text, speaker)


def _read(path: Path) -> np.ndarray:
    samples = load_audio(path, _SAMPLE_RATE)
    return samples * np.float32(0.3 / max(np.abs(samples).max(), 1e-3))


def repeated(utterances: Iterable[Utterance], times: int) -> Iterator[Utterance]:
    """Yield each utterance `times` times; each copy has a key of its own."""
    for each in utterances:
        yield each
        for number in range(2, times + 1):
            yield each._replace(key=f"{each.key}-{number}")


def write_set(utterances: Sequence[Utterance], folder: Path) -> None:
    """Write wav.scp, text and utt2spk, and print the number of utterances and speakers."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in (("wav.scp", 1), ("text", 2), ("utt2spk", 3)):
        write_text(folder / name, "".join(f"{each[0]} {each[column]}".rstrip() + "\n" for each in utterances))
    speakers = len({each.speaker for each in utterances})
    print(f"{folder}: {len(utterances)} utterances of {speakers} speakers or voices")


def divide(data: Path, speech: Path, local: Path, output: Path) -> None:
    """Write all sets.

    Args:
        data: folder with the recorded corpora.
        speech: folder with the synthetic speech and the sounds, one folder each; names of test sets begin with test_,
            those of parts of the dev set with dev_.
        local: folder of prepared corpora: LibriSpeech in Kaldi's format, and the digit strings made here.
        output: folder of the sets.

    Raises:
        OSError, ValueError: a file is missing or wrong, or a speaker of a test set is in the training set.
    """
    english = read_folder(data / "english" / "train", data / "english")
    speakers = sorted({each.speaker for each in english})
    dev = [each for each in english if is_dev_speaker(each.speaker, speakers)]
    train = list(
        repeated((each for each in english if not is_dev_speaker(each.speaker, speakers)), _REPEATS["english"])
    )
    if (local / "train-clean-100").exists():
        train += repeated(read_folder(local / "train-clean-100"), _REPEATS["librispeech"])
    if (data / "fsdd" / "recordings").exists():
        digits = list(join_digits(data / "fsdd" / "recordings", local / "digits", 400, seed=0))
        train += repeated((each for each in digits if each.speaker != _DEV_DIGITS_SPEAKER), _REPEATS["digits"])
        dev += [each for each in digits if each.speaker == _DEV_DIGITS_SPEAKER][:100]
    if (data / "wakewords").exists():
        train += read_folder(data / "wakewords", data / "wakewords")
    for folder in sorted(path.parent for path in speech.glob("*/wav.scp")):
        if folder.name.startswith("test_"):
            write_set(read_folder(folder), output / folder.name.removeprefix("test_"))
        elif folder.name.startswith("dev_"):
            dev += read_folder(folder)
        else:
            train += read_folder(folder)
    if not dev:
        raise ValueError(
            f"{data / 'english' / 'train'}: has {len(speakers)} speakers, too few for a dev set, which takes one in "
            f"{_DEV_SHARE}; add speakers, digits in fsdd/, or a folder dev_NAME in {speech}"
        )
    held_out = read_folder(data / "english" / "dev", data / "english")
    books = read_folder(local / "dev-clean") if (local / "dev-clean").exists() else []
    refuse_shared_speakers(train, [*held_out, *books])
    write_set(train, output / "train")
    write_set(dev, output / "dev")
    write_set(held_out, output / "english_dev")
    write_set([each for each in held_out if set(each.text.split()) <= set(_DIGITS)], output / "strings")
    if (data / "speech_commands_300").exists():
        words = read_folder(data / "speech_commands_300", data / "speech_commands_300")
        write_set(words, output / "words")
        write_set([each for each in words if each.text in _DIGITS], output / "digits")
    if books:
        write_set(books, output / "librispeech")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python local/divide_corpora.py /corpora /data/speech --output data"
    )
    parser.add_argument("data", type=Path, help="folder with english/, fsdd/, wakewords/, speech_commands_300/")
    parser.add_argument("speech", type=Path, help="folder with synthetic speech and sounds")
    parser.add_argument(
        "--local", type=Path, default=Path("data/local"), help="prepared corpora (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=Path("data"), help="folder of the sets (default: %(default)s)")
    args = parser.parse_args(argv)
    divide(args.data, args.speech, args.local, args.output)
    return 0


if __name__ == "__main__":
    run_main(main)
