"""Uploads: receive an audio file, decode it and send its text."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import replace
from typing import BinaryIO

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.server.decoding.decoders import DecoderFault, DecodersBusy, Decoding
from wenet_fusion_runtime.server.errors import ClientError, Reason, internal_error
from wenet_fusion_runtime.server.guard.deadline import within
from wenet_fusion_runtime.server.http.body import Body
from wenet_fusion_runtime.server.http.upload_answer import Answer, Transcript, UploadRoute, joined_text
from wenet_fusion_runtime.server.live_session import LiveSession
from wenet_fusion_runtime.server.service import LOG, Service
from wenet_fusion_runtime.server.session_options import MAX_TEXT, option_error

_AUDIO_ERRORS = (ValueError, DecoderFault, DecodersBusy)  # raised by a decoder
CHUNK_BYTES = 64 * 1024  # bytes received at once
MAX_FIELDS = 32  # options in a form
FORM_BYTES = 64 * 1024 + MAX_TEXT  # bytes of a form besides its file
FILE_FIELDS = ("file", "audio")  # parts of a form that are the audio even without a file name


class Upload:
    """One request with an audio file; a `Client` of the service.

    Args:
        service: decodes the audio.
        request: its body is the file, or a form with the file and options.
        label: name of the client in the log.
        route: reads the options and writes the response.

    >>> async def handle(service: Service, request: web.Request, route: UploadRoute) -> web.StreamResponse:
    ...     return await Upload(service, request, "127.0.0.1 /transcribe", route).respond()
    """

    def __init__(self, service: Service, request: web.Request, label: str, route: UploadRoute) -> None:
        self._service, self._request, self._label, self._route = service, request, label, route
        self._session: LiveSession | None = None
        self._work: asyncio.Task[web.StreamResponse] | None = None
        self._error: ClientError | None = None  # ends the upload early
        self._results: list[Result] = []  # closed segments
        self._seconds = 0.0  # audio decoded and passed to the session
        self._progressed = 0.0  # loop time of the last decoded audio or result
        self._is_decoding = False  # waiting for the decoder, which has its own deadline
        self._stream: web.StreamResponse | None = None  # the streamed response, once it has begun
        self._is_answered = False  # all audio is recognised, and a streamed response is sent completely

    async def respond(self) -> web.StreamResponse:
        """Receive and recognise the file; return the response, which may be an error response."""
        self._work = asyncio.ensure_future(self._answer())
        try:
            response = await self._work
        except asyncio.CancelledError:
            if self._error is None:  # the client disconnected
                if self._session is not None and not self._is_answered:
                    self._service.metrics.count_disconnected()
                    LOG.info("%s: disconnected after %.1f s of audio", self._label, self._seconds)
                raise
            return await self._send_error(self._error)
        except ClientError as error:
            return await self._send_error(error)
        finally:
            if self._session is not None:
                self._session.close()
        return response

    def drain(self) -> None:
        """Do nothing: the server waits until uploads are finished."""

    def end_early(self, error: ClientError) -> None:
        """Stop, and send the text so far with the error."""
        self._error = error
        if self._work is not None:
            self._work.cancel()

    # ----

    async def _answer(self) -> web.StreamResponse:
        limits = self._service.limits
        query = [(name, value) for name, value in self._request.query.items() if name != "token"]
        await asyncio.to_thread(self._route.read, query)  # report errors in the query before the file arrives
        with tempfile.TemporaryFile() as file:  # has no name, so nothing of it remains even if the server is killed
            try:
                fields = await within(self._receive(file), limits.upload_seconds)
            except web.RequestPayloadError as error:  # e.g. a body that is not gzip although its header says so
                raise ClientError(Reason.PROTOCOL, f"the body cannot be read ({_shortened(error)})") from None
            except asyncio.TimeoutError:
                raise ClientError(
                    Reason.UPLOAD_TIME, f"the upload took more than {limits.upload_seconds:g} s"
                ) from None
            answer = await asyncio.to_thread(self._route.read, query + fields)
            self._service.check_room()  # do not decode in vain; a session is opened only after decoding has begun
            file.flush()
            try:
                decoding = await self._service.decoders.open(file, answer.options.channel)
            except _AUDIO_ERRORS as error:
                raise self._audio_error(error) from None
        with contextlib.closing(decoding):
            self._session = await self._service.open(answer.options.session, is_file=True)
            self._move_on()
            tasks = [asyncio.ensure_future(self._feed(decoding, self._session)), asyncio.ensure_future(self._watch())]
            try:
                return await self._transcribe(self._session, answer)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, file: BinaryIO) -> list[tuple[str, str]]:
        """Write the audio to a file; return the other fields of a form."""
        fields: list[tuple[str, str]] = []
        names: set[str] = set()
        size = 0  # of all fields, including repeated names
        body = Body(self._request.content, self._service.limits.upload_bytes + FORM_BYTES)
        if not self._request.content_type.startswith("multipart/"):
            while data := await body.read(CHUNK_BYTES):
                self._write(file, data)
        else:
            try:
                form = body.form(self._request)
                while (part := await form.next()) is not None:
                    if not isinstance(part, BodyPartReader):
                        raise ValueError("a form within a form")
                    if part.filename is None and part.name not in FILE_FIELDS:
                        name = visible(part.name or "", SHOWN)
                        names.add(name)
                        fields.append((name, await _read_field(part, name, size)))
                        size += len(name) + len(fields[-1][1])
                        if len(names) > MAX_FIELDS:
                            raise ValueError(f"more than {MAX_FIELDS} fields")
                        continue
                    if file.tell():
                        raise ValueError("more than one file")
                    while data := await part.read_chunk(CHUNK_BYTES):
                        self._write(file, data)
            except (ValueError, HttpProcessingError) as error:
                raise ClientError(
                    Reason.OPTION,
                    f"the form cannot be read ({_shortened(error)}); send the audio as a file in it, or alone as the "
                    "body",
                ) from None
        if not file.tell():
            raise ClientError(Reason.SAMPLES, "the request has no audio; send a file as the body, or in a form")
        return fields

    def _write(self, file: BinaryIO, data: bytes) -> None:
        limit = self._service.limits.upload_bytes
        if file.tell() + len(data) > limit:
            raise ClientError(
                Reason.UPLOAD_SIZE, f"the file has more than {limit} bytes; cut it, or stream it over a WebSocket"
            )
        file.write(data)

    async def _feed(self, decoding: Decoding, session: LiveSession) -> None:
        """Push all audio into the session, then end it; at an error of the audio, end it early."""
        limit, rate = self._service.limits.audio_seconds, decoding.sample_rate
        try:
            while True:
                self._is_decoding = True
                block = await decoding.block()
                self._is_decoding = False
                if block is None:
                    break
                allowed = max(0, round((limit - self._seconds) * rate))
                self._seconds += min(len(block), allowed) / rate
                self._move_on()
                await session.push(block[:allowed], rate)
                if len(block) > allowed:
                    raise ClientError(Reason.AUDIO_SECONDS, f"the file has more than {limit:g} s of audio; cut it")
        except ClientError as error:
            self._error = error
        except _AUDIO_ERRORS as error:
            self._error = self._audio_error(error)
        except Exception:
            LOG.exception("%s: reading the audio failed", self._label)
            self._error = internal_error()
        session.end()

    async def _watch(self) -> None:
        """End the upload early if neither decoding nor recognition makes progress."""
        limit, loop = self._service.limits.progress_seconds, asyncio.get_running_loop()
        while (waited := loop.time() - self._progressed) < limit or self._is_decoding:
            await asyncio.sleep(max(limit - waited, limit / 10))
        self.end_early(ClientError(Reason.PROGRESS, f"recognition made no progress for {limit:g} s; try again later"))

    def _move_on(self) -> None:
        self._progressed = asyncio.get_running_loop().time()

    def _audio_error(self, error: ValueError | DecoderFault | DecodersBusy) -> ClientError:
        if isinstance(error, ValueError):
            return ClientError(Reason.SAMPLES, str(error))
        if isinstance(error, DecodersBusy):
            return ClientError(Reason.PROGRESS, str(error))
        LOG.warning("%s: %s (%s)", self._label, error, error.details or "no details")
        return ClientError(Reason.DECODER, str(error))

    async def _transcribe(self, session: LiveSession, answer: Answer) -> web.StreamResponse:
        nbest = answer.options.session.nbest
        if answer.options.is_streamed:
            self._stream = web.StreamResponse(headers={"Content-Type": answer.stream_type, "X-Accel-Buffering": "no"})
            await self._stream.prepare(self._request)
        async for update in session.updates():
            self._move_on()
            if update.error is not None:
                raise self._service.session_error(update.error, self._label)
            finals = [replace(result, hypotheses=result.hypotheses[:nbest]) for result in update.finals]
            self._results += finals
            if self._stream is not None:
                await self._send(answer.piece(finals, update.partial))
        if self._error is not None:
            raise self._error
        transcript = Transcript(self._text, self._seconds, tuple(self._results))
        if self._stream is not None:
            await self._send(answer.last(transcript))
        self._is_answered = True  # from here on a client that disconnects has all results
        LOG.info("%s: transcribed %.1f s of audio", self._label, self._seconds)
        if self._stream is not None:
            await self._stream.write_eof()
            return self._stream
        return answer.whole(transcript)

    @property
    def _text(self) -> str:
        return joined_text(self._results, self._service.meta.vocabulary)

    # ---- streamed responses

    async def _send(self, text: str) -> None:
        if self._stream is not None and text:
            seconds = self._service.limits.send_seconds
            try:
                await within(self._stream.write(text.encode()), seconds)
            except asyncio.TimeoutError:
                raise ClientError(Reason.SLOW_READER, f"the client read nothing for {seconds:g} s") from None

    async def _send_error(self, error: ClientError) -> web.StreamResponse:
        self._service.report(error, self._label)
        if self._stream is None:
            return self._route.error(error, self._text if self._results else None)
        if error.reason is Reason.SLOW_READER and self._request.transport is not None:
            self._request.transport.abort()
            return self._stream
        await self._send(self._route.last_error(error, self._text))
        await self._stream.write_eof()
        return self._stream


def _shortened(error: Exception) -> str:
    return visible(" ".join(str(error).split()), 2 * SHOWN)


async def _read_field(part: BodyPartReader, name: str, earlier: int) -> str:
    found = b""
    while data := await part.read_chunk(CHUNK_BYTES):
        found += data
        if earlier + len(found) > MAX_TEXT:
            raise option_error(f"{name}: the options have more than {MAX_TEXT} bytes in all")
    return found.decode("utf-8", "replace")
