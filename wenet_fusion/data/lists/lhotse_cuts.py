"""Read lhotse's manifests: cuts, or supervisions beside their recordings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wenet_fusion_runtime.files import iterate_lines, parse_json

from wenet_fusion.data.judgement import Skip
from wenet_fusion.data.sources import AudioSource, Utterance


def load_lhotse(name: str) -> Any:
    """Return the package lhotse.

    Raises:
        ImportError: it is not installed; the message begins with `name`, and gives the remedy.
    """
    try:
        import lhotse
    except ImportError as error:
        raise ImportError(f"{name}: needs lhotse ({error}): pip install 'wenet-fusion[lhotse]'") from error
    return lhotse


def is_lhotse(path: Path) -> bool:
    """Return whether a file is a lhotse manifest, by its name; a .jsonl may be a raw list, so its first line decides.

    Raises:
        OSError, ValueError: a .jsonl cannot be read, or is not UTF-8 text.

    >>> is_lhotse(Path("librispeech_cuts_train.jsonl.gz")), is_lhotse(Path("data.list"))
    (True, False)
    """
    if path.suffix != ".jsonl":
        return path.name.endswith(".jsonl.gz")
    line = next(filter(str.strip, iterate_lines(path, "surrogateescape")), "")
    try:
        record = parse_json(line)
    except ValueError:
        return False  # reading it as a raw list will report the line
    return isinstance(record, dict) and not record.keys() & {"wav", "audio_filepath"}


def iterate_cuts(path: Path) -> Iterator[Utterance | Skip]:
    """Yield the utterances of a CutSet, or of a file of supervisions with its file of recordings beside it.

    Raises:
        ImportError: lhotse is not installed.
        ValueError: the file is neither of the two.
    """
    lhotse = load_lhotse(str(path))
    try:
        for cut in _cuts(lhotse, path):
            yield from utterances_of_cut(cut)
    except Exception as error:  # lhotse raises AssertionError, KeyError and others
        raise ValueError(f"{path}: is no lhotse manifest of cuts ({error!r})") from error


def _cuts(lhotse: Any, path: Path) -> Any:
    if "supervisions" not in path.name:
        return lhotse.CutSet.from_file(path)
    recordings = path.with_name(path.name.replace("supervisions", "recordings"))
    if not recordings.exists():
        raise ValueError(f"there is no {recordings.name} beside it")
    cuts = lhotse.CutSet.from_manifests(lhotse.load_manifest(recordings), lhotse.load_manifest(path))
    return cuts.trim_to_supervisions(keep_overlapping=False)


def utterances_of_cut(cut: Any, place: str = "") -> Iterator[Utterance | Skip]:
    """Yield the utterance of a MonoCut, or one for each of its supervisions; `place` names its file in messages."""
    if len(cut.supervisions) > 1:
        for part in cut.trim_to_supervisions(keep_overlapping=False):
            yield from utterances_of_cut(part, place)
        return
    problem = _problem(cut)
    if problem:
        yield Skip(str(cut.id), problem, place)
        return
    supervision, recording = cut.supervisions[0], cut.recording
    source = _source(recording)
    if isinstance(source, str):
        yield Skip(str(cut.id), source, place)
        return
    whole = cut.start == 0 and abs(cut.duration - recording.duration) < 1e-3
    channel = cut.channel + 1 if recording.num_channels > 1 else None
    start, end = (None, None) if whole else (cut.start, cut.start + cut.duration)
    key, text, speaker = "_".join(str(cut.id).split()), supervision.text, supervision.speaker
    yield Utterance(key, source, text, cut.duration, start, end, speaker, channel, place)


def _problem(cut: Any) -> str:
    if not cut.supervisions or cut.supervisions[0].text is None:
        return "the cut has no supervision with a text"
    if type(cut).__name__ != "MonoCut":
        return f"is a {type(cut).__name__}; only MonoCuts are read (data.augmentation adds noise, and training pads)"
    if not cut.has_recording:
        return "the cut has no recording; features alone are not enough"
    if getattr(cut.recording, "transforms", None):
        return "its recording has transforms (speed, resampling, ...): set them in data.augmentation instead"
    return ""


def _source(recording: Any) -> AudioSource | str:
    """Return the source of a recording, or the reason why it cannot be read."""
    if len(recording.sources) != 1:
        return f"its recording has {len(recording.sources)} files; only one is read"
    kind, source = recording.sources[0].type, recording.sources[0].source
    if kind == "file":
        return AudioSource(str(source))
    if kind == "memory":
        return AudioSource(f"memory of {recording.id}", 0, len(source), bytes(source))
    return f"its recording is a {kind}; copy it to files (lhotse cut move ..., or lhotse shar export)"
