"""Results as text, JSON lines, CTM, SRT and VTT. Knows neither recognition nor where the text goes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

from wenet_fusion_runtime.results.result import Hypothesis, Result, Token, Word
from wenet_fusion_runtime.results.subtitles import Cue, make_cues
from wenet_fusion_runtime.results.vocabulary import Vocabulary

TEXT, JSON, CTM, SRT, VTT = "text", "json", "ctm", "srt", "vtt"
FORMATS = (TEXT, JSON, CTM, SRT, VTT)
SUBTITLES = (SRT, VTT)  # describe one recording; the others name theirs and can be joined
SUFFIXES = (".txt", ".jsonl", ".ctm", ".srt", ".vtt")  # of FORMATS


class Writer(Protocol):
    """Turns the closed segments of one recording into text, piece by piece."""

    def begin(self) -> str:
        """What stands before the first segment."""

    def segment(self, result: Result) -> str:
        """The next segment."""

    def end(self, text: str) -> str:
        """What stands at the end, given all text of the recording."""


def make_writer(form: str, name: str, named: bool, hypotheses_of: Vocabulary | None = None) -> Writer:
    """A writer for one recording.

    Args:
        form: one of FORMATS.
        name: of the recording, as the text shows it.
        named: whether plain text shows it; JSON and CTM always do, subtitles never.
        hypotheses_of: see `result_record`; for JSON.
    Raises:
        ValueError: unknown format.
    """
    if form not in FORMATS:
        raise ValueError(f"unknown output format '{form}'; choose one of {', '.join(FORMATS)}")
    if form == TEXT:
        return _Text(f"{name}\t" if named else "")
    if form == JSON:
        return _JsonLines(name, hypotheses_of)
    return _Ctm(name) if form == CTM else _Subtitles(is_vtt=form == VTT)


def result_record(result: Result, hypotheses_of: Vocabulary | None = None) -> dict[str, Any]:
    """A closed segment, ready for JSON.

    Args:
        hypotheses_of: units with which the text of its hypotheses is written, with their scores; None: they are not.
    """
    words = [
        {"text": word.text, **_span(word.start_seconds, word.end_seconds), "confidence": round(word.confidence, 4)}
        for word in result.words
    ]
    tokens = [
        {
            "text": token.text,
            "id": token.id,
            **_span(token.start_seconds, token.end_seconds),
            "confidence": round(token.confidence, 4),
        }
        for token in result.tokens
    ]
    endpoint = None if result.endpoint is None else result.endpoint.value
    span = _span(result.start_seconds, result.end_seconds)
    record = {
        "segment": result.segment,
        **span,
        "endpoint": endpoint,
        "text": result.text,
        "words": words,
        "tokens": tokens,
    }
    if hypotheses_of is not None:
        record["hypotheses"] = [_scores(hypothesis, hypotheses_of) for hypothesis in result.hypotheses]
    return record


def partial_record(result: Result) -> dict[str, Any]:
    """An open segment, ready for JSON: its text, and how many of its words can no longer change."""
    return {"segment": result.segment, "partial": result.text, "committed": result.committed}


def json_line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def ctm_lines(name: str, units: Iterable[Word | Token]) -> str:
    """A line for each word or token: recording, channel, start and duration in seconds, text, confidence."""
    lines = []
    for unit in units:
        # Whole milliseconds: words that touch still do, and none overlap, after rounding.
        start, end = round(1000 * unit.start_seconds), round(1000 * unit.end_seconds)
        lines.append(f"{name} 1 {start / 1000:.3f} {(end - start) / 1000:.3f} {unit.text} {unit.confidence:.4f}\n")
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
    """One object for each segment."""

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
    """One line for each word."""

    def __init__(self, name: str) -> None:
        self._name = "_".join(name.split()) or "_"  # a field of a line whose fields are separated by spaces

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


def _scores(hypothesis: Hypothesis, units: Vocabulary) -> dict[str, Any]:
    names = ("score", "ctc_score", "context_score", "lm_score", "length_score", "attention_score")
    return {"text": units.text(hypothesis.ids), **{name: round(getattr(hypothesis, name), 4) for name in names}}


def _span(start_seconds: float, end_seconds: float) -> dict[str, float]:
    return {"start": round(start_seconds, 3), "end": round(end_seconds, 3)}


def _clock(seconds: float, point: str) -> str:
    """HH:MM:SS and milliseconds."""
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{milliseconds:03}"
