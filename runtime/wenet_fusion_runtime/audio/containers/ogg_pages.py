"""Scan the pages of an Ogg file, to find its consecutive and its simultaneous streams."""

from __future__ import annotations

from typing import NamedTuple

from wenet_fusion_runtime.audio.containers.byte_ranges import Link, Window

_PAGE_HEAD = 27  # bytes before the table of segments
_BEGINS = 2  # flag of a stream's first page
_CODECS = ((b"\x01vorbis", "vorbis"), (b"OpusHead", "opus"), (b"\x7fFLAC", "flac"), (b"Speex   ", "speex"))


class OggStreams(NamedTuple):
    """The streams of an Ogg file.

    >>> OggStreams(links=[Link(0, 9000)], codecs={"opus"}, is_multiplexed=False).codecs
    {'opus'}
    """

    links: list[Link]  # consecutive streams
    codecs: set[str]
    is_multiplexed: bool  # has simultaneous streams, e.g. pictures and sound


def find_ogg_streams(window: Window) -> OggStreams:
    """Return the streams of a file that begins with a page; damaged bytes between pages are skipped."""
    starts: list[int] = []
    codecs: set[str] = set()
    serials: set[bytes] = set()  # of the current link
    position, is_multiplexed, has_audio = 0, False, True
    while len(head := window.look(position, _PAGE_HEAD + 255)) >= _PAGE_HEAD:
        if head[:4] != b"OggS":
            position = window.find(b"OggS", position + 1)
            if position < 0:
                break
            continue
        body = _PAGE_HEAD + head[26]
        if head[5] & _BEGINS:
            if has_audio:  # this page begins the next link
                starts.append(position)
                serials, has_audio = set(), False
            packet = window.look(position + body, 8)
            codecs.update(name for magic, name in _CODECS if packet.startswith(magic))
            serials.add(head[14:18])
            is_multiplexed = is_multiplexed or len(serials) > 1
        else:
            has_audio = True
        position += body + sum(head[_PAGE_HEAD:body])
    links = [Link(start, end) for start, end in zip(starts, [*starts[1:], window.size])]
    return OggStreams(links, codecs, is_multiplexed)
