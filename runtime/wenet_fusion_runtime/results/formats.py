"""Write results as text, JSON lines, CTM, SRT and WebVTT."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

from wenet_fusion_runtime.results.result import Hypothesis, Result, Token, Word
from wenet_fusion_runtime.results.subtitles import Cue, make_cues
from wenet_fusion_runtime.results.vocabulary import Vocabulary

TEXT, JSON, CTM, SRT, VTT = "text", "json", "ctm", "srt", "vtt"
FORMATS = (TEXT, JSON, CTM, SRT, VTT)
SUBTITLES = (SRT, VTT)  # need a file per recording; the other formats name the recording, so one file can hold several
SUFFIXES = (".txt", ".jsonl", ".ctm", ".srt", ".vtt")  # file suffixes, in the order of FORMATS

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Writer(Protocol):
    """Turn the closed segments of one recording into text, piece by piece."""

    def begin(self) -> str:
        """Return the text before the first segment."""

    def segment(self, result: Result) -> str:
        """Return the text of the next segment."""

    def end(self, text: str) -> str:
        """Return the text after the last segment, given all text of the recording."""


def make_writer(form: str, name: str, named: bool, hypotheses_of: Vocabulary | None = None) -> Writer:
    """Return a writer for one recording.

    Args:
        form: one of FORMATS.
        name: name of the recording in the output.
        named: whether plain text starts with the name; JSON and CTM always show it, subtitles never.
        hypotheses_of: vocabulary for writing the hypotheses in JSON; None leaves them out.
    Raises:
        ValueError: the format is unknown.

    >>> word = Word("one", 0.5, 0.8, confidence=0.9)
    >>> result = Result("one", (), (word,), 1, 0, 0.0, 1.0, (), endpoint=None)
    >>> make_writer("ctm", "a.wav", named=True).segment(result)
    'a.wav 1 0.500 0.300 one 0.9000\\n'
    """
    if form not in FORMATS:
        raise ValueError(f"unknown output format '{form}'; choose one of {', '.join(FORMATS)}")
    if form == TEXT:
        return _Text(f"{name}\t" if named else "")
    if form == JSON:
        return _JsonLines(name, hypotheses_of)
    return _Ctm(name) if form == CTM else _Subtitles(is_vtt=form == VTT)


def result_record(result: Result, hypotheses_of: Vocabulary | None = None) -> dict[str, Any]:
    """Return a closed segment as a JSON object.

    Args:
        result: the segment.
        hypotheses_of: vocabulary for writing the hypotheses with their scores; None leaves them out.
    """
    record = {
        **segment_record(result),
        "text": result.text,
        "words": [word_record(word) for word in result.words],
        "tokens": [_token_record(token) for token in result.tokens],
    }
    if hypotheses_of is not None:
        record["hypotheses"] = [_scores(hypothesis, hypotheses_of) for hypothesis in result.hypotheses]
    return record


def segment_record(result: Result) -> dict[str, Any]:
    """Return the number of a segment, its times in seconds and its endpoint as a JSON object."""
    return {
        "segment": result.segment,
        "start": round(result.start_seconds, 3),
        "end": round(result.end_seconds, 3),
        "endpoint": None if result.endpoint is None else result.endpoint.value,
    }


def word_record(word: Word) -> dict[str, Any]:
    """Return a word as a JSON object, with times in seconds."""
    return {
        "text": word.text,
        "start": round(word.start_seconds, 3),
        "end": round(word.end_seconds, 3),
        "confidence": round(word.confidence, 4),
    }


def partial_record(result: Result) -> dict[str, Any]:
    """Return an open segment as a JSON object with its text and the number of its final words."""
    return {"segment": result.segment, "partial": result.text, "committed": result.committed}


def json_line(record: dict[str, Any]) -> str:
    """Return a JSON object as one line."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def compact_json(value: Any) -> str:
    """Return a value as JSON without spaces and line breaks between its parts."""
    return _ENCODER.encode(value)


def ctm_lines(name: str, items: Iterable[Word | Token]) -> str:
    """Return CTM: a line per word or token with recording, channel, start and duration in seconds, text, confidence."""
    lines = []
    for item in items:
        # Round the ends, not the durations: adjacent words stay adjacent, and none overlap.
        start, end = round(1000 * item.start_seconds), round(1000 * item.end_seconds)
        lines.append(f"{name} 1 {start / 1000:.3f} {(end - start) / 1000:.3f} {item.text} {item.confidence:.4f}\n")
    return "".join(lines)


class _Text:
    """All text on one line."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def begin(self) -> str:
        return ""

    def segment(self, result: Result) -> str:
        return ""

    def end(self, text: str) -> str:
        return f"{self._prefix}{text}\n"


class _JsonLines:
    """One JSON object per segment."""

    def __init__(self, name: str, hypotheses_of: Vocabulary | None) -> None:
        self._name = name
        self._hypotheses_of = hypotheses_of

    def begin(self) -> str:
        return ""

    def segment(self, result: Result) -> str:
        return json_line({"file": self._name, **result_record(result, self._hypotheses_of)})

    def end(self, text: str) -> str:
        return ""


class _Ctm:
    """One line per word."""

    def __init__(self, name: str) -> None:
        self._name = "_".join(name.split()) or "_"  # spaces separate the fields of a line

    def begin(self) -> str:
        return ""

    def segment(self, result: Result) -> str:
        return ctm_lines(self._name, result.words)

    def end(self, text: str) -> str:
        return ""


class _Subtitles:
    """SRT or WebVTT."""

    def __init__(self, is_vtt: bool) -> None:
        self._is_vtt = is_vtt
        self._count = 0
        self._shown_until = 0.0

    def begin(self) -> str:
        return "WEBVTT\n\n" if self._is_vtt else ""

    def segment(self, result: Result) -> str:
        cues = make_cues(result.words, self._shown_until)
        if cues:
            self._shown_until = cues[-1].end_seconds
        return "".join(map(self._cue, cues))

    def end(self, text: str) -> str:
        return ""

    def _cue(self, cue: Cue) -> str:
        self._count += 1
        point, number = (".", "") if self._is_vtt else (",", f"{self._count}\n")
        text = "\n".join(cue.lines)
        if self._is_vtt:
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"{number}{_clock(cue.start_seconds, point)} --> {_clock(cue.end_seconds, point)}\n{text}\n\n"


def _scores(hypothesis: Hypothesis, vocabulary: Vocabulary) -> dict[str, Any]:
    names = ["score", "ctc_score", "context_score", "lm_score", "length_score", "attention_score"]
    names += [name for name in ("grammar_score", "grammar_gap") if getattr(hypothesis, name)]
    return {"text": vocabulary.text(hypothesis.ids), **{name: round(getattr(hypothesis, name), 4) for name in names}}


def _token_record(token: Token) -> dict[str, Any]:
    return {
        "text": token.text,
        "id": token.id,
        "start": round(token.start_seconds, 3),
        "end": round(token.end_seconds, 3),
        "confidence": round(token.confidence, 4),
    }


def _clock(seconds: float, point: str) -> str:
    """Return HH:MM:SS and milliseconds."""
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{milliseconds:03}"
