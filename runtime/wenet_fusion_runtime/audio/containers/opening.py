"""Open an audio file with the decoder that suits its contents."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import soundfile

from wenet_fusion_runtime.audio.containers.byte_ranges import BinaryFile, Borrowed, FileParts, FileRange, Link, Window
from wenet_fusion_runtime.audio.containers.kept_scans import scan
from wenet_fusion_runtime.audio.containers.media_decoder import MediaDecoder
from wenet_fusion_runtime.audio.containers.mpeg_frames import find_mpeg_streams, is_mpeg
from wenet_fusion_runtime.audio.containers.ogg_pages import find_ogg_streams
from wenet_fusion_runtime.audio.containers.pcm_decoder import PcmDecoder
from wenet_fusion_runtime.audio.containers.sound_decoders import (
    ChainDecoder,
    Decoder,
    SoundfileDecoder,
    check_links,
    open_link,
)
from wenet_fusion_runtime.audio.wav_header import (
    MAGIC,
    MOST_CHUNKS,
    SIZE_UNKNOWN,
    WavHeader,
    is_wav,
    next_samples,
    read_wav_header,
)

_HEAD_BYTES = 6000  # bytes at the beginning of a file that show its kind: at least three mp3 frames
_FLAC = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # beginnings of a stream, with and without metadata
_MPEG_TAGS = (0x50, 0x55)  # format tags of WAV for MPEG audio
_TRAILERS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"smpl", b"fact", b"PEAK", b"iXML", b"_PMX")  # after samples
# If a chunk of samples states more bytes than the file has, libsndfile shortens it and logs that, without an error.
_CUT_OFF = re.compile(r"^\s*(?:SSND|BODY|data|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_ID3_END = 128  # bytes of an ID3 tag at the end of an mp3 file
_SLACK_BYTES = 64  # padding and offsets may cause this difference between sizes in libsndfile's log
_FRAMES_PER_BYTE = 16  # most sample frames per byte in the formats that only libsndfile reads


def open_decoder(source: str | Path | BinaryFile) -> Decoder:
    """Return the decoder of a file. Its `close` closes a file that was given as a path, but not an open file.

    This package decodes uncompressed WAV, libsndfile the formats that it reads completely, and PyAV the others. The
    format is detected from the contents, not from the name.

    Args:
        source: path, or open binary file. A pipe is copied first, unless it holds uncompressed WAV.
    Raises:
        OSError: the path cannot be opened.
        ValueError: the file cannot be read as audio; the message does not name the file.
    """
    path = str(source) if isinstance(source, (str, Path)) else None
    with contextlib.ExitStack() as opened:
        borrowed = None if isinstance(source, (str, Path)) else cast(BinaryFile, Borrowed(source))
        file = borrowed or opened.enter_context(open(str(source), "rb"))
        decoder = _open_file(file, path) if file.seekable() else _open_pipe(file)
        opened.pop_all()  # the decoder closes the file
    return decoder


def _open_pipe(pipe: BinaryFile) -> Decoder:
    """Decode uncompressed WAV as it arrives; copy other formats to a temporary file first."""
    taken = bytearray()

    def read(count: int) -> bytes:
        content = pipe.read(count)
        taken.extend(content)
        return content

    if is_wav(read(12)):
        header = read_wav_header(read)
        if header.is_plain:
            return PcmDecoder(pipe, header, None)
    if not taken:
        raise ValueError("no audio came through the pipe; check the program that writes to it")
    copy = tempfile.TemporaryFile()  # noqa: SIM115  # closed by the decoder
    try:
        copy.write(taken)
        shutil.copyfileobj(pipe, copy)
        return _open_file(copy, None)
    except BaseException:
        copy.close()
        raise


def _open_file(file: BinaryFile, path: str | None) -> Decoder:
    window = Window(file)
    if not window.size:
        raise ValueError("is an empty file")
    head = window.look(0, _HEAD_BYTES)
    if is_wav(head):
        return _open_wav(file, window)
    if head.startswith(b"fLaC"):
        return _open_flac(file, path, window)
    if head.startswith(b"OggS"):
        streams = scan(find_ogg_streams, window, path)
        if streams.links and not streams.is_multiplexed and streams.codecs <= {"vorbis", "opus", "flac"}:
            try:
                return _open_links(file, path, streams.links)
            except ValueError:  # libsndfile refuses some FLAC in Ogg, such as FFmpeg's with two channels
                if "flac" not in streams.codecs or len(streams.links) > 1:
                    raise
        return _open_media(file, "Ogg with other sound than Vorbis, Opus or FLAC, or with pictures")
    if head.startswith(b"ID3") or is_mpeg(head):
        after_tag = _after_id3(head)
        if window.look(after_tag, 4) == b"fLaC":
            return _open_links(file, path, [Link(after_tag, window.size)])
        links = scan(_mpeg_streams, window, path)
        if links:
            return _open_links(file, path, links)
    return _open_other(file, window)


def _mpeg_streams(window: Window) -> list[Link]:
    return find_mpeg_streams(window, _after_id3(window.look(0, _HEAD_BYTES)), window.size)


def _open_links(file: BinaryFile, path: str | None, links: list[Link]) -> Decoder:
    """Open streams with libsndfile. A file with a single stream is opened by its path, which is faster."""
    (link, *more) = links
    is_whole = not more and not link.start and file.seek(0, io.SEEK_END) <= link.end + _ID3_END
    if path is not None and is_whole and not link.is_endless and len(link.parts) < 2:
        decoder = _checked(lambda: SoundfileDecoder(_encoded(path), link.frames))
        file.close()
        return decoder
    return _checked(lambda: ChainDecoder(file, links, open_link))


def _open_wav(file: BinaryFile, window: Window) -> Decoder:
    """Open a WAV file, or several that were joined."""
    links: list[Link] = []
    begin = 0
    while True:
        member = FileRange(file, begin, window.size)
        header = _read_header(member)
        end = begin + header.offset + (header.data_bytes(window.size - begin - header.offset) or 0)
        if not header.stated and is_wav(window.look(begin + header.offset, 12)):  # a file without samples, then another
            end = begin + header.offset
        chunks, following = _after_samples(file, window, end)
        links.append(Link(begin, following, parts=((begin + header.offset, end), *chunks)))
        check_links(len(links))
        if following == window.size:
            break
        begin = following
    return ChainDecoder(file, links, lambda file, link: _open_wav_link(file, window, link))


def _after_samples(file: BinaryFile, window: Window, end: int) -> tuple[list[tuple[int, int]], int]:
    """Return the stated byte ranges of further chunks with samples, and where the next joined file begins."""
    chunks: list[tuple[int, int]] = []
    rest = FileRange(file, 0, window.size)
    if is_wav(window.look(end, 12)):  # a joined file without padding before it
        return chunks, end
    while len(chunks) < MOST_CHUNKS:
        rest.seek(end + end % 2)
        kind, size = next_samples(rest.read, lambda count: rest.seek(count, io.SEEK_CUR))
        place = rest.tell()
        if kind in MAGIC and is_wav(window.look(place - 8, 12)):
            return chunks, place - 8
        if kind != b"data":
            break
        end = place + size if size < SIZE_UNKNOWN else window.size
        chunks.append((place, end))
    return chunks, window.size


def _open_wav_link(file: BinaryFile, window: Window, link: Link) -> Decoder:
    member = FileRange(file, link.start, link.end)
    header = _read_header(member)
    available = link.end - link.start - header.offset
    if not header.stated and _is_trailer(window, link.start + header.offset):
        available = 0
    if len(link.parts) > 1:
        if header.is_plain:
            return _open_chunks(file, header, link)
        raise ValueError(
            "cannot be read as audio (it has compressed samples in several chunks); convert it to wav or flac"
        )
    if header.is_plain:
        return PcmDecoder(member, header, available)
    stated = header.data_bytes(available) or 0
    if header.tag in _MPEG_TAGS:
        begin = link.start + header.offset
        if links := find_mpeg_streams(window, begin, begin + min(stated, available)):
            return _checked(lambda: ChainDecoder(FileRange(file, 0, window.size), links, open_link))
    if stated != header.stated:  # the size is unknown, and libsndfile would believe the header
        return _open_media(member, f"WAV of unknown length with sound of type {header.tag}")
    member.seek(0)
    try:
        decoder = SoundfileDecoder(member)
    except soundfile.LibsndfileError:
        if stated > available:
            raise ValueError(f"is damaged or ends too early, found {available} bytes of {stated}") from None
        return _open_media(member, f"WAV with sound of type {header.tag}")
    if stated > available and decoder.frames:
        decoder.expect(decoder.frames * stated // available)
    return decoder


def _open_chunks(file: BinaryFile, header: WavHeader, link: Link) -> Decoder:
    """Open uncompressed samples in several chunks; other decoders read only one chunk."""
    sizes = [(end - start) // header.block * header.block for start, end in link.parts]
    parts = [(start, max(start, min(start + size, link.end))) for (start, _), size in zip(link.parts, sizes)]
    available = sum(end - start for start, end in parts)
    return PcmDecoder(FileParts(file, parts), header._replace(stated=sum(sizes)), available)


def _read_header(member: FileRange) -> WavHeader:
    member.seek(12)
    try:
        return read_wav_header(member.read)
    except ValueError as error:
        raise ValueError(f"cannot be read as audio ({error}); convert it to wav or flac") from None


def _is_trailer(window: Window, position: int) -> bool:
    """Return whether a chunk without samples begins here and fits into the file."""
    head = window.look(position, 8)
    return head[:4] in _TRAILERS and position + 8 + int.from_bytes(head[4:8], "little") <= window.size


def _open_flac(file: BinaryFile, path: str | None, window: Window) -> Decoder:
    """Open a FLAC file. Further streams are searched only after the first one ends, because the search is slow."""

    def find_more() -> list[Link]:
        starts = [0]
        while found := min((at for mark in _FLAC if (at := window.find(mark, starts[-1] + 4)) > 0), default=0):
            starts.append(found)
        return [Link(start, end) for start, end in zip(starts[1:], [*starts[2:], window.size])]

    def open_stream(file: BinaryFile, link: Link) -> SoundfileDecoder:
        return SoundfileDecoder(_encoded(path)) if path is not None and not link.start else open_link(file, link)

    return _checked(lambda: ChainDecoder(file, [Link(0, window.size)], open_stream, find_more))


def _encoded(path: str) -> str | bytes:
    """Return the path in a form for soundfile, which cannot encode names that are not UTF-8."""
    return os.fsencode(path) if os.name == "posix" else path


def _after_id3(head: bytes) -> int:
    """Return the position after the ID3 tag at the beginning of a file; 0 if there is none."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + 10 * (head[5] >> 4 & 1)


def _open_other(file: BinaryFile, window: Window) -> Decoder:
    """Open a less common format with libsndfile or, if it fails, with PyAV."""
    try:
        decoder = open_link(file, Link(0, window.size))
    except soundfile.LibsndfileError as error:
        return _open_media(file, error.error_string.rstrip("."))
    if decoder.format == "MP3" and (links := find_mpeg_streams(window, 0, window.size)):
        return _checked(lambda: ChainDecoder(file, links, open_link))
    if decoder.frames is None or decoder.frames > _FRAMES_PER_BYTE * window.size:
        raise ValueError(f"is damaged: its header states more audio than its {window.size} bytes can hold")
    if cut := _CUT_OFF.search(decoder.log):
        stated, found = map(int, cut.groups())
        if found and found + _SLACK_BYTES < stated < SIZE_UNKNOWN:
            decoder.expect(decoder.frames * stated // found)
    return ChainDecoder(file, [Link(0, window.size)], lambda file, link: decoder)


def _open_media(file: BinaryFile, cause: str) -> Decoder:
    """Open a file with PyAV.

    Raises:
        ValueError: PyAV cannot read the file, or is not installed (then the message holds `cause`).
    """
    try:  # a file object without a name, so that FFmpeg detects the format from the contents
        return MediaDecoder(FileRange(file, 0, file.seek(0, io.SEEK_END), closes=True))
    except ImportError as error:
        raise ValueError(f"cannot be read as audio ({cause}); {error}, or convert it to wav or flac") from None
    except ValueError as error:
        raise ValueError(f"{error}; convert it to wav or flac") from None


def _checked(opened: Callable[[], Decoder]) -> Decoder:
    try:
        return opened()
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"cannot be read as audio ({error.error_string.rstrip('.')}); convert it to wav or flac"
        ) from None
