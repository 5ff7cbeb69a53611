"""Recorded speech to verify an export, to calibrate int8, and to measure error rates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.results.result import Word, joined_ids
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.offline import transcribe_offline
from wenet_fusion_runtime.stream.recognizer import Recognizer

from wenet_fusion.data.lists.manifest import read_manifest
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sources import read_samples
from wenet_fusion.scoring.ctm import keys_without_words, read_ctm
from wenet_fusion.scoring.error_rate import score
from wenet_fusion.scoring.transcripts import Counting


class Speech(NamedTuple):
    """One utterance of a data list."""

    key: str
    samples: np.ndarray  # float32 mono at the model's rate
    text: str
    timestamps: tuple[Word, ...] = ()  # word timestamps, from a CTM file


def read_speech(data_list: Path, sample_rate: int, count: int, ctm: Path | None = None) -> list[Speech]:
    """Read up to `count` utterances of a data list, with word timestamps if there is a CTM file.

    The utterances are spread over the list, because lists are often sorted by speaker.

    Raises:
        ValueError, OSError: a file or audio cannot be read, `count` is less than 1, or the CTM file lacks words.
    """
    if count < 1:
        raise ValueError(f"--num_utterances {count}: take at least 1 of {data_list}")
    listed = read_manifest(data_list)
    count = min(count, len(listed))
    utterances = [listed[index * len(listed) // count] for index in range(count)]
    timestamps = read_ctm(ctm) if ctm is not None else {}
    if ctm is not None:
        missing = keys_without_words(timestamps, {utterance.key: utterance.text for utterance in utterances}, ctm)
        if missing:
            raise ValueError(
                f"{ctm}: lacks the words of {len(missing)} utterances of {data_list}, such as {missing[0]}"
            )
    return [
        Speech(item.key, read_samples(item, sample_rate), item.text, tuple(timestamps.get(item.key, ())))
        for item in utterances
    ]


class CalibrationSplit(NamedTuple):
    """Utterances to calibrate a precision, and utterances to measure its error rate."""

    calibrating: Sequence[Speech]
    judging: Sequence[Speech]


def calibration_split(speech: Sequence[Speech], precision: str) -> CalibrationSplit:
    """Split speech into utterances to calibrate a precision and utterances to measure its error rate.

    Only "int8" needs calibration; its error rate is then measured on other utterances, if there are two or more.
    """
    return (
        CalibrationSplit(speech[::2], speech[1::2] or speech) if precision == "int8" else CalibrationSplit((), speech)
    )


def check_limit(limit: float) -> None:
    """Raise ValueError unless `limit`, an increase of an error rate, is between 0 and 1."""
    if not 0 <= limit <= 1:
        raise ValueError(f"--max_wer_increase {100 * limit:g}: must lie between 0 and 100 percentage points")


# Above this error rate of the checkpoint, an increase of the rate says little about int8.
WORST_JUDGE = 0.5


class ErrorChange(NamedTuple):
    """Error rates, as fractions of the words, of a checkpoint and of its exported file as it streams.

    Each Chinese or Japanese character counts as a word.
    """

    before: float
    after: float
    words: int
    utterances: int
    changed: int  # utterances whose text differs
    chunk: int  # the chunk size, in encoder frames, with the largest increase

    def raise_above(self, limit: float, path: Path, remedy: str) -> None:
        """Raise ValueError if the error rate rose by more than `limit`, or if the checkpoint makes too many errors.

        Args:
            limit: largest increase, as a fraction of the words.
            path: the exported file, for the message.
            remedy: the end of the message about an increase.
        """
        check_limit(limit)
        if self.before > WORST_JUDGE:
            raise ValueError(
                f"{path} is not kept: the checkpoint itself makes {100 * self.before:.0f} % errors on this speech, so "
                "the errors that int8 adds cannot be measured; give --data a list that the model was trained for"
            )
        if self.after - self.before > limit:
            raise ValueError(
                f"{path} is not kept: its word error rate is {100 * self.after:.2f} % instead of "
                f"{100 * self.before:.2f} % ({self.words} words), more than the {100 * limit:.2f} points that "
                f"--max_wer_increase allows; {remedy}"
            )

    def summary(self) -> dict[str, Any]:
        """Return the numbers for meta.json."""
        return self._asdict()


def measure_errors(
    reference: AcousticModel,
    exported: AcousticModel,
    speech: Sequence[Speech],
    options: DecodingOptions = DecodingOptions(),
) -> ErrorChange:
    """Decode `speech` offline with the checkpoint and in streams with the file, and compare the error rates.

    Args:
        reference: the checkpoint in memory.
        exported: the file.
        speech: utterances with transcripts.
        options: decoding options; by default, the exported model's default mode.

    Returns:
        The change at the chunk size with the largest increase.

    Raises:
        ValueError: the transcripts have no words, or a key occurs twice.
    """
    if len({utterance.key for utterance in speech}) < len(speech):
        raise ValueError(
            "the data list for the export has a key twice: give each utterance its own, as tools/data/make_raw_list.py"
            " does"
        )
    recognizer = Recognizer(exported, options)
    changes = [_change(reference, recognizer, speech, chunk) for chunk in exported.meta.chunk_sizes]
    return max(changes, key=lambda change: change.after - change.before)


def _change(reference: AcousticModel, recognizer: Recognizer, speech: Sequence[Speech], chunk: int) -> ErrorChange:
    left = reference.meta.left(chunk)
    references = {utterance.key: utterance.text for utterance in speech}
    before, after = {}, {}
    for utterance in progress_bar(speech, len(speech), f"error rate, chunk {chunk}", "utt", leave=False):
        offline = transcribe_offline(reference, utterance.samples, chunk, left, recognizer.options)
        before[utterance.key] = reference.meta.vocabulary.text(joined_ids(offline))
        stream = recognizer.create_stream(chunk)
        stream.accept_waveform(utterance.samples)
        stream.finish()
        after[utterance.key] = stream.text
    scored = [score(references, texts, Counting("mixed")).total for texts in (before, after)]
    if not scored[0].reference:
        raise ValueError("the data list for the export holds no word: give --data a list with transcripts")
    changed = sum(before[key] != after[key] for key in references)
    return ErrorChange(scored[0].rate, scored[1].rate, scored[0].reference, len(references), changed, chunk)
