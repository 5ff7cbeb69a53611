"""Responses of `POST /v1/audio/transcriptions`."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from wenet_fusion_runtime.model.metadata import Meta
from wenet_fusion_runtime.results.formats import JSON
from wenet_fusion_runtime.results.result import Result, Token
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.results.words import spaced_text
from wenet_fusion_runtime.server.errors import ClientError
from wenet_fusion_runtime.server.http.responses import failure, json_response
from wenet_fusion_runtime.server.http.upload_answer import Answer, Fields, Transcript, written
from wenet_fusion_runtime.server.openai.openai_errors import error_record
from wenet_fusion_runtime.server.openai.prompt_words import PromptWords
from wenet_fusion_runtime.server.openai.transcription_options import (
    SEGMENT,
    VERBOSE,
    WORD,
    TranscriptionOptions,
    parse_transcription_options,
)
from wenet_fusion_runtime.stream.endpoints import EndpointRules

_LEAST_CONFIDENCE = 1e-10  # JSON has no minus infinity


class TranscriptionsRoute:
    """The route `POST /v1/audio/transcriptions`.

    Args:
        meta: metadata of the model.
        rules: endpoint rules of files.
        prompt_words: turns prompts into hot words.

    >>> def answer(meta: Meta, rules: EndpointRules, words: PromptWords) -> Answer:
    ...     return TranscriptionsRoute(meta, rules, words).read([("response_format", "srt")])
    """

    def __init__(self, meta: Meta, rules: EndpointRules, prompt_words: PromptWords) -> None:
        self._meta, self._rules, self._prompt_words = meta, rules, prompt_words

    def read(self, fields: Fields) -> Answer:
        """Return the answer for these options; see `UploadRoute`."""
        options = parse_transcription_options(fields, self._rules, self._prompt_words)
        return _TranscriptionAnswer(options, self._meta.vocabulary)

    def error(self, error: ClientError, text: str | None) -> web.Response:
        """Return the response for an error."""
        return openai_response(error, text)

    def last_error(self, error: ClientError, text: str) -> str:
        """Return the event with an error."""
        return _event({"error": error_record(error), "text": text})


def openai_response(error: ClientError, text: str | None = None) -> web.Response:
    """Return the response for an error, with the text that was recognised before it."""
    return failure(error, {"error": error_record(error)} | ({} if text is None else {"text": text}))


class _TranscriptionAnswer:
    """Writes JSON (with or without details), plain text, subtitles, or server-sent events.

    Deltas contain closed segments only, so they never change text that was sent before.
    """

    stream_type = "text/event-stream"

    def __init__(self, options: TranscriptionOptions, vocabulary: Vocabulary) -> None:
        self._options, self._vocabulary = options, vocabulary
        self.options = options.upload
        self._has_sent = False
        self._spaces = ""  # spaces at the end of the closed segments; sent before the next text

    def piece(self, finals: Sequence[Result], partial: Result | None) -> str:
        closed = [result for result in finals if result.tokens]
        if not closed:
            return ""
        text = self._spaces + "".join(spaced_text(result, self._vocabulary) for result in closed)
        delta = text.rstrip() if self._has_sent else text.strip()
        self._spaces = text[len(text.rstrip()) :]
        self._has_sent = self._has_sent or bool(delta)
        tokens = [token for result in finals for token in result.tokens]
        return _event({"type": "transcript.text.delta", "delta": delta} | self._logprobs(tokens)) if delta else ""

    def last(self, transcript: Transcript) -> str:
        return _event({"type": "transcript.text.done", "text": transcript.text} | self._shared(transcript))

    def whole(self, transcript: Transcript) -> web.Response:
        if self._options.response_format == JSON:
            return json_response({"text": transcript.text} | self._shared(transcript))
        if self._options.response_format == VERBOSE:
            return json_response(self._verbose(transcript))
        return written(self._options.response_format, transcript)

    def _shared(self, transcript: Transcript) -> dict[str, Any]:
        tokens = [token for result in transcript.results for token in result.tokens]
        return self._logprobs(tokens) | {"usage": {"type": "duration", "seconds": round(transcript.seconds, 3)}}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        if not self._options.has_logprobs:
            return {}
        return {
            "logprobs": [
                {"token": token.text, "bytes": list(token.text.encode("utf-8", "replace")), "logprob": _logprob(token)}
                for token in tokens
            ]
        }

    def _verbose(self, transcript: Transcript) -> dict[str, Any]:
        spoken = [result for result in transcript.results if result.words]
        record: dict[str, Any] = {
            "task": "transcribe",
            "language": self._options.language,
            "duration": round(transcript.seconds, 3),
            "text": transcript.text,
        }
        if SEGMENT in self._options.granularities:
            record["segments"] = [self._segment(number, result) for number, result in enumerate(spoken)]
        if WORD in self._options.granularities:
            record["words"] = [
                {"word": word.text, "start": round(word.start_seconds, 3), "end": round(word.end_seconds, 3)}
                for result in spoken
                for word in result.words
            ]
        return record | {"usage": {"type": "duration", "seconds": round(transcript.seconds, 3)}}

    def _segment(self, number: int, result: Result) -> dict[str, Any]:
        encoded = result.text.encode("utf-8", "replace")
        return {
            "id": number,
            "seek": round(100 * result.start_seconds),
            "start": round(result.words[0].start_seconds, 3),
            "end": round(result.words[-1].end_seconds, 3),
            "text": result.text,
            "tokens": [token.id for token in result.tokens],
            "temperature": self._options.temperature,
            "avg_logprob": sum(map(_logprob, result.tokens)) / len(result.tokens),
            "compression_ratio": len(encoded) / len(zlib.compress(encoded)),
            "no_speech_prob": 0.0,  # the model has no such output
        }


def _logprob(token: Token) -> float:
    return math.log(max(token.confidence, _LEAST_CONFIDENCE))


def _event(record: dict[str, Any]) -> str:
    return f"data: {json.dumps(record, ensure_ascii=False)}\n\n"
