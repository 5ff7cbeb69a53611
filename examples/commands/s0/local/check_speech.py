"""Check synthetic speech with Whisper: list the utterances to keep, and those with too many recognition errors.

Whisper decodes windows of 30 seconds; a window holds several utterances, to save time. The result of each utterance is
stored beside its audio: after an interruption, the same command continues.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from folders import Utterance, read_folder
from rapidfuzz.distance import Levenshtein
from tqdm import tqdm
from wenet_fusion_runtime import load_audio
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

_SAMPLE_RATE = 16000
_WINDOW_SECONDS, _GAP_SECONDS = 29.0, 0.6
_SECOND_WINDOW_SECONDS = 12.0  # for a second try, because Whisper sometimes stops before the end of a long window


def record_of(utterance: Utterance) -> Path:
    """Return the path of the file with Whisper's error rate, which is beside the audio."""
    return utterance.path.with_suffix(".whisper")


def windows(utterances: Sequence[Utterance], seconds: float) -> Iterator[tuple[list[Utterance], np.ndarray]]:
    """Yield groups of utterances with their joined audio, of at most `seconds` unless one utterance is longer."""
    group: list[Utterance] = []
    audio: list[np.ndarray] = []
    gap = np.zeros(int(_GAP_SECONDS * _SAMPLE_RATE), np.float32)
    for each in utterances:
        samples = np.concatenate([load_audio(each.path, _SAMPLE_RATE), gap])
        if group and sum(map(len, audio)) + len(samples) > seconds * _SAMPLE_RATE:
            yield group, np.concatenate(audio)
            group, audio = [], []
        peak = np.abs(samples).max(initial=1e-6)
        group.append(each)
        audio.append(samples * np.float32(0.5 / peak))
    if group:
        yield group, np.concatenate(audio)


def letters_of(text: str) -> str:
    """Return the letters of a text, without spaces and punctuation; words with two spellings get the same one.

    >>> letters_of("O.K., seven p.m."), letters_of("OKAY SEVEN PM")
    ('oksevenpm', 'oksevenpm')
    """
    plain = re.sub(r"[^a-z]", "", text.lower().replace("okay", "ok").replace("%", "percent").replace("°", "degrees"))
    return plain.replace("zero", "oh")


def errors_of(references: Sequence[str], hypothesis: str) -> list[float]:
    """Return the letter error rate of each reference; the hypothesis is one transcript of all references in order.

    The hypothesis is aligned to the joined references; each error counts for the reference in which it lies.

    >>> errors_of(["seven", "lights"], "sevnlightsoff")
    [0.2, 0.5]
    """
    ends = np.cumsum([len(each) for each in references])
    edits = Levenshtein.editops("".join(references), hypothesis)
    places = np.searchsorted(ends, [edit.src_pos for edit in edits], side="right").clip(max=len(references) - 1)
    counts = np.bincount(places, minlength=len(references)) if len(places) else np.zeros(len(references))
    return [float(count / max(len(each), 1)) for count, each in zip(counts, references)]


class Whisper:
    """Transcribes with faster-whisper, and writes numbers in words.

    Args:
        model: name of a model, or a folder that holds one.
    """

    def __init__(self, model: str) -> None:
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise OSError("faster_whisper is missing; run: pip install -r requirements.txt") from error
        self._model = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=1)
        vocabulary = self._model.hf_tokenizer.get_vocab()
        self._numerals = [
            -1,
            *(
                number
                for token, number in vocabulary.items()
                if re.search(r"[0-9$£€]", token) and not token.startswith("<")
            ),
        ]

    def transcribe(self, samples: np.ndarray) -> str:
        """Return the words of float32 samples (N,) at 16 kHz."""
        segments, _ = self._model.transcribe(
            samples, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False,
            without_timestamps=True, suppress_tokens=self._numerals,
        )  # fmt: skip
        return " ".join(segment.text for segment in segments)


def read_record(utterance: Utterance, mark: str = "") -> float:
    """Return the error rate in an utterance's record; with a mark, return 1.0 if the record holds it, otherwise 0.0."""
    fields = record_of(utterance).read_text().split()
    return float(mark in fields) if mark else float(fields[0])


def judge(folder: Path, whisper: Whisper, utterances: Sequence[Utterance], seconds: float, mark: str = "") -> None:
    """Transcribe utterances in windows of at most `seconds`, and write their records, with a mark."""
    with tqdm(total=len(utterances), desc=f"{folder}: Whisper", unit="utterance", disable=None) as bar:
        for group, samples in windows(utterances, seconds):
            recognised = whisper.transcribe(samples)
            errors = errors_of([letters_of(each.text) for each in group], letters_of(recognised))
            for each, error in zip(group, errors):
                write_text(record_of(each), f"{error:.3f} {mark}\n")
            bar.update(len(group))


def check(folder: Path, whisper: Whisper, limit: float) -> None:
    """Judge all utterances of a folder; write the lists `kept` (keys) and `rejected` (keys, error rates and texts)."""
    utterances = read_folder(folder, with_rejected=True)
    judge(folder, whisper, [each for each in utterances if not record_of(each).exists()], _WINDOW_SECONDS)
    again = [each for each in utterances if read_record(each) > limit and not read_record(each, "again")]
    judge(folder, whisper, again, _SECOND_WINDOW_SECONDS, "again")
    rates = {each.key: read_record(each) for each in utterances}
    kept = [each.key for each in utterances if rates[each.key] <= limit]
    rejected = [f"{each.key} {rates[each.key]:.2f} {each.text}" for each in utterances if rates[each.key] > limit]
    write_text(folder / "kept", "".join(f"{key}\n" for key in kept))
    write_text(folder / "rejected", "".join(f"{line}\n" for line in rejected))
    print(f"{folder}: {len(kept)} of {len(utterances)} utterances kept")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python local/check_speech.py /data/speech/hibari --whisper tiny.en"
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders that speak_texts.py wrote")
    parser.add_argument(
        "--whisper", default="tiny.en", help="name or folder of a faster-whisper model (default: %(default)s)"
    )
    parser.add_argument(
        "--max_error", type=float, default=0.3, help="largest letter error rate to keep (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    whisper = Whisper(args.whisper)
    for folder in args.folders:
        check(folder, whisper, args.max_error)
    return 0


if __name__ == "__main__":
    run_main(main)
