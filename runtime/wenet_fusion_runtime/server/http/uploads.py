"""Audio files that are uploaded: receives, decodes and answers. Knows no WebSocket, no token and no origin."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from wenet_fusion_runtime.audio.reader import AudioReader
from wenet_fusion_runtime.results.formats import FORMATS, JSON, json_line, make_writer, partial_record, result_record
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.server.errors import INTERNAL, Reason, Refusal
from wenet_fusion_runtime.server.http.responses import json_response, refusal_response
from wenet_fusion_runtime.server.service import LOG, Service
from wenet_fusion_runtime.server.websocket.live_session import LiveSession
from wenet_fusion_runtime.server.websocket.protocol import SessionOptions, parse_options

BLOCK_SECONDS = 2.0  # of audio that is read at once
CHUNK_BYTES = 64 * 1024  # of an upload
MAX_FIELD_BYTES = 1 << 18  # of an option in a form
FILE_FIELDS = ("file", "audio")  # of a form, also if they come without a file name
NAME = "upload"  # what messages call the audio
CONTENT_TYPES = ("text/plain", "application/json", "text/plain", "application/x-subrip", "text/vtt")  # of FORMATS


@dataclass(frozen=True)
class UploadOptions:
    """What an upload asks for."""

    session: SessionOptions
    form: str  # of the answer, one of FORMATS
    streams: bool  # JSON lines while it is recognised


class Upload:
    """One request with an audio file; a `Client` of the service.

    Args:
        service: see there.
        request: its body is the file, or a form with the file and options.
        who: what the log calls the client.
    """

    def __init__(self, service: Service, request: web.Request, who: str) -> None:
        self._service, self._request, self._who = service, request, who
        self._session: LiveSession | None = None
        self._work: asyncio.Task[web.StreamResponse] | None = None
        self._refusal: Refusal | None = None  # why it ends before its end
        self._results: list[Result] = []  # closed segments
        self._seconds = 0.0  # of audio
        self._stream: web.StreamResponse | None = None  # once it has begun
        self._is_answered = False  # all has been recognised, and sent if it is streamed

    async def respond(self) -> web.StreamResponse:
        """Do all that the request asks for.

        Raises:
            Refusal: it cannot be done; nothing was sent.
        """
        self._work = asyncio.ensure_future(self._answer())
        try:
            response = await self._work
        except asyncio.CancelledError:
            if self._refusal is None:  # the client went away
                if self._session is not None and not self._is_answered:
                    self._service.metrics.vanished()
                    LOG.info("%s: went away after %.1f s of audio", self._who, self._seconds)
                raise
            return await self._end_refused(self._refusal)
        except Refusal as refusal:
            return await self._end_refused(refusal)
        finally:
            if self._session is not None:
                self._session.close()
        return response

    def drain(self) -> None:
        """What has begun goes on."""

    def end_early(self, refusal: Refusal) -> None:
        self._refusal = refusal
        if self._work is not None:
            self._work.cancel()

    # ----

    async def _answer(self) -> web.StreamResponse:
        limits = self._service.limits
        query = {name: value for name, value in self._request.query.items() if name != "token"}
        _upload_options(query, self._service)  # what is wrong in it need not wait for the file
        with tempfile.TemporaryDirectory(prefix="wenet-fusion-") as folder:
            path = Path(folder, NAME)
            try:
                fields = await asyncio.wait_for(self._receive(path), limits.upload_seconds)
            except web.RequestPayloadError as error:  # no gzip although its header says so, chunks without lengths
                raise Refusal(Reason.PROTOCOL, f"the body cannot be read ({_shortened(error)})") from None
            except asyncio.TimeoutError:
                raise Refusal(Reason.UPLOAD_TIME, f"the upload took more than {limits.upload_seconds:g} s") from None
            options = _upload_options(query | fields, self._service)
            try:
                reader = await asyncio.to_thread(AudioReader, path, NAME)
            except ValueError as error:
                raise Refusal(Reason.SAMPLES, str(error)) from None
            with reader:
                self._session = await self._service.open(options.session, is_file=True)
                feeding = asyncio.ensure_future(self._feed(reader, self._session))
                try:
                    return await self._transcribe(self._session, options)
                finally:
                    feeding.cancel()
                    await asyncio.gather(feeding, return_exceptions=True)

    async def _receive(self, path: Path) -> dict[str, str]:
        """Writes the audio to a file; returns the other fields of a form."""
        fields: dict[str, str] = {}
        with open(path, "wb") as file:
            if not self._request.content_type.startswith("multipart/"):
                while data := await self._request.content.read(CHUNK_BYTES):
                    self._write(file, data)
            else:
                try:
                    async for part in await self._request.multipart():
                        if not isinstance(part, BodyPartReader):
                            raise ValueError("a form within a form")
                        if part.filename is None and part.name not in FILE_FIELDS:
                            fields[part.name or ""] = await _read_field(part)
                            continue
                        if file.tell():
                            raise ValueError("more than one file")
                        while data := await part.read_chunk(CHUNK_BYTES):
                            self._write(file, data)
                except (ValueError, HttpProcessingError) as error:
                    raise Refusal(
                        Reason.OPTION,
                        f"the form cannot be read ({error}); send the audio as a file in it, or alone as the body",
                    ) from None
            if not file.tell():
                raise Refusal(Reason.SAMPLES, "no audio came; send a file as the body, or in a form")
        return fields

    def _write(self, file: BinaryIO, data: bytes) -> None:
        limit = self._service.limits.upload_bytes
        if file.tell() + len(data) > limit:
            raise Refusal(Reason.UPLOAD_SIZE, f"the file has more than {limit} bytes; cut it, or send it as a stream")
        file.write(data)

    async def _feed(self, reader: AudioReader, session: LiveSession) -> None:
        """Gives all audio to the session and ends it, at the first problem too."""
        limit, blocks = self._service.limits.audio_seconds, reader.blocks(BLOCK_SECONDS)
        try:
            while (block := await asyncio.to_thread(next, blocks, None)) is not None:
                if self._seconds + len(block) / reader.sample_rate > limit:
                    raise Refusal(Reason.AUDIO_SECONDS, f"the file has more than {limit:g} s of audio; cut it")
                self._seconds += len(block) / reader.sample_rate
                await session.push(block, reader.sample_rate)
        except Refusal as refusal:
            self._refusal = refusal
        except ValueError as error:
            self._refusal = Refusal(Reason.SAMPLES, str(error))
        except Exception:
            LOG.exception("%s: reading the audio failed", self._who)
            self._refusal = Refusal(Reason.INTERNAL, "the server failed; its log says why", INTERNAL)
        session.end()

    async def _transcribe(self, session: LiveSession, options: UploadOptions) -> web.StreamResponse:
        meta, nbest = self._service.meta, options.session.nbest
        units = meta.vocabulary if nbest > 1 else None
        if options.streams:
            self._stream = web.StreamResponse(
                headers={"Content-Type": "application/x-ndjson", "X-Accel-Buffering": "no"}
            )
            await self._stream.prepare(self._request)
        async for update in session.updates():
            if update.error is not None:
                raise self._service.failure(update.error, self._who)
            finals = [replace(result, hypotheses=result.hypotheses[:nbest]) for result in update.finals]
            self._results += finals
            lines = [json_line(result_record(result, units)) for result in finals]
            if update.partial is not None and update.partial.text:
                lines.append(json_line(partial_record(update.partial)))
            await self._send("".join(lines))
        if self._refusal is not None:
            raise self._refusal
        await self._send(json_line({"status": "ok", "text": self._text, "seconds": round(self._seconds, 3)}))
        self._is_answered = True  # whoever hangs up from here on has not vanished
        LOG.info("%s: transcribed %.1f s of audio", self._who, self._seconds)
        if self._stream is not None:
            await self._stream.write_eof()
            return self._stream
        if options.form == JSON:
            segments = [result_record(result, units) for result in self._results]
            return json_response(
                {"status": "ok", "text": self._text, "seconds": round(self._seconds, 3), "segments": segments}
            )
        writer = make_writer(options.form, NAME, named=False)
        text = writer.begin() + "".join(map(writer.segment, self._results)) + writer.end(self._text)
        return web.Response(text=text, content_type=CONTENT_TYPES[FORMATS.index(options.form)], charset="utf-8")

    @property
    def _text(self) -> str:
        spaced = self._service.meta.vocabulary.spaced
        return "".join(spaced([token.id for token in result.tokens]) for result in self._results).strip()

    # ---- streamed answers

    async def _send(self, text: str) -> None:
        if self._stream is not None and text:
            seconds = self._service.limits.send_seconds
            try:
                await asyncio.wait_for(self._stream.write(text.encode()), seconds)
            except asyncio.TimeoutError:
                raise Refusal(Reason.SLOW_READER, f"nothing of what was sent was taken for {seconds:g} s") from None

    async def _end_refused(self, refusal: Refusal) -> web.StreamResponse:
        self._service.refused(refusal, self._who)
        if self._stream is None:
            return refusal_response(refusal, self._text if self._results else None)
        if refusal.reason is Reason.SLOW_READER and self._request.transport is not None:
            self._request.transport.abort()
            return self._stream
        await self._send(json_line({"status": "failed", "message": refusal.message, "text": self._text}))
        await self._stream.write_eof()
        return self._stream


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


async def _read_field(part: BodyPartReader) -> str:
    found = b""
    while data := await part.read_chunk(CHUNK_BYTES):
        found += data
        if len(found) > MAX_FIELD_BYTES:
            raise Refusal(Reason.OPTION, f"{part.name} has more than {MAX_FIELD_BYTES} bytes")
    return found.decode("utf-8", "replace")


def _upload_options(fields: Mapping[str, str], service: Service) -> UploadOptions:
    """The options in a query or a form, whose values are JSON or plain text."""
    given = {name: _value(text) for name, text in fields.items()}
    for name in ("sample_rate", "continuous_decoding", "timestamps", "signal"):
        if name in given:
            raise Refusal(Reason.OPTION, f"{name} means nothing for a file; leave it out")
    form, streams = given.pop("format", JSON), given.pop("stream", False)
    if form not in FORMATS:
        raise Refusal(Reason.OPTION, f"format must be one of {', '.join(FORMATS)}, found {json.dumps(form)}")
    if type(streams) is not bool:
        raise Refusal(Reason.OPTION, f"stream must be true or false, found {json.dumps(streams)}")
    if streams and form != JSON:
        raise Refusal(Reason.OPTION, f"stream=true goes with format={JSON} only, found {form}")
    return UploadOptions(parse_options(given, service.file_rules), form, streams)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
