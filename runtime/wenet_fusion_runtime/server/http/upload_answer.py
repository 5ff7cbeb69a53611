"""Interfaces of upload routes, which read the options of an upload and write its response; the route of /transcribe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from aiohttp import web

from wenet_fusion_runtime.model.metadata import Meta
from wenet_fusion_runtime.results.formats import FORMATS, JSON, json_line, make_writer, partial_record, result_record
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.results.words import spaced_text
from wenet_fusion_runtime.server.decoding.decoder_process import NAME
from wenet_fusion_runtime.server.errors import ClientError
from wenet_fusion_runtime.server.http.responses import error_response, json_response
from wenet_fusion_runtime.server.http.upload_options import UploadOptions, parse_upload_options
from wenet_fusion_runtime.stream.endpoints import EndpointRules

CONTENT_TYPES = ("text/plain", "application/json", "text/plain", "application/x-subrip", "text/vtt")  # as in FORMATS

Fields = Sequence[tuple[str, str]]  # names and values of a query and a form; a name may occur more than once


class Transcript(NamedTuple):
    """The text of an upload, and all its results."""

    text: str
    seconds: float  # length of the audio
    results: tuple[Result, ...]  # closed segments


class Answer(Protocol):
    """Writes the response to one upload."""

    @property
    def options(self) -> UploadOptions:
        """The options of the upload."""

    @property
    def stream_type(self) -> str:
        """The content type of a streamed response."""

    def piece(self, finals: Sequence[Result], partial: Result | None) -> str:
        """Return the next piece of a streamed response, from the segments that closed and the open one."""

    def last(self, transcript: Transcript) -> str:
        """Return the last piece of a streamed response."""

    def whole(self, transcript: Transcript) -> web.Response:
        """Return the complete response to an upload whose response is not streamed."""


class UploadRoute(Protocol):
    """Reads the options of uploads, and writes their errors."""

    def read(self, fields: Fields) -> Answer:
        """Return the answer for these options. The server calls this in a thread, as finding hot words may take long.

        Raises:
            ClientError: an option is unknown or its value is invalid.
        """

    def error(self, error: ClientError, text: str | None) -> web.Response:
        """Return the response for an error, with the text that was recognised before it."""

    def last_error(self, error: ClientError, text: str) -> str:
        """Return the last piece of a streamed response that ends with an error."""


def joined_text(results: Iterable[Result], vocabulary: Vocabulary) -> str:
    """Return the joined text of consecutive segments."""
    return "".join(spaced_text(result, vocabulary) for result in results).strip()


class TranscribeRoute:
    """The route `POST /transcribe`.

    Args:
        meta: metadata of the model.
        rules: endpoint rules of files.

    >>> def answer(meta: Meta, rules: EndpointRules) -> Answer:
    ...     return TranscribeRoute(meta, rules).read([("format", "srt")])
    """

    def __init__(self, meta: Meta, rules: EndpointRules) -> None:
        self._meta, self._rules = meta, rules

    def read(self, fields: Fields) -> Answer:
        """Return the answer for these options; see `UploadRoute`."""
        return _TranscribeAnswer(parse_upload_options(dict(fields), self._rules), self._meta)

    def error(self, error: ClientError, text: str | None) -> web.Response:
        """Return the response for an error."""
        return error_response(error, text)

    def last_error(self, error: ClientError, text: str) -> str:
        """Return the line with an error."""
        return json_line({"status": "failed", "message": error.message, "text": text})


class _TranscribeAnswer:
    """Writes JSON lines, or one of FORMATS."""

    stream_type = "application/x-ndjson"

    def __init__(self, options: UploadOptions, meta: Meta) -> None:
        self.options = options
        self._hypotheses_of = meta.vocabulary if options.session.nbest > 1 else None

    def piece(self, finals: Sequence[Result], partial: Result | None) -> str:
        lines = [json_line(result_record(result, self._hypotheses_of)) for result in finals]
        if partial is not None and partial.text:
            lines.append(json_line(partial_record(partial)))
        return "".join(lines)

    def last(self, transcript: Transcript) -> str:
        return json_line({"status": "ok", "text": transcript.text, "seconds": round(transcript.seconds, 3)})

    def whole(self, transcript: Transcript) -> web.Response:
        if self.options.output_format == JSON:
            record = {"status": "ok", "text": transcript.text, "seconds": round(transcript.seconds, 3)}
            segments = [result_record(result, self._hypotheses_of) for result in transcript.results]
            return json_response(record | {"segments": segments})
        return written(self.options.output_format, transcript)


def written(output_format: str, transcript: Transcript) -> web.Response:
    """Return a response with the transcript in one of FORMATS, in which the recording is called NAME."""
    writer = make_writer(output_format, NAME, named=False)
    text = writer.begin() + "".join(map(writer.segment, transcript.results)) + writer.end(transcript.text)
    return web.Response(text=text, content_type=CONTENT_TYPES[FORMATS.index(output_format)], charset="utf-8")
