"""Shards of utterances: tars with transcripts, and NeMo's tars, whose transcripts are in a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol

from wenet_fusion_runtime.files import printable

from wenet_fusion.data.judgement import Skip
from wenet_fusion.data.lists.manifest import AUDIO_SUFFIXES
from wenet_fusion.data.sequential.tar_members import Member, read_members
from wenet_fusion.data.sources import AudioSource, Utterance


class Shard(Protocol):
    """A part of a corpus that is read from beginning to end.

    Attributes:
        name: path, URL or command.

    >>> [name for name in vars(Shard) if not name.startswith("_")]
    ['name', 'read']
    """

    @property
    def name(self) -> str:
        """Return the shard's path, URL or command."""

    def read(self, retries: int) -> Iterator[Utterance | Skip]:
        """Yield the utterances with their audio in memory, and a `Skip` for each unusable one.

        Raises:
            OSError, ValueError: the shard cannot be read, or is damaged from here on.
        """


class TarShard(NamedTuple):
    """A tar with members key.txt and key.wav (or another suffix of AUDIO_SUFFIXES), in any order."""

    name: str  # place of the tar, see `open_bytes`

    def read(self, retries: int) -> Iterator[Utterance | Skip]:
        """See `Shard`."""
        texts: dict[str, str] = {}
        audio: dict[str, AudioSource] = {}
        reported: set[str] = set()
        for member in read_members(self.name, retries):
            path = PurePosixPath(member.name)
            key = str(path.with_suffix(""))
            if path.suffix == ".txt":
                try:
                    texts[key] = member.data.decode("utf-8").strip()
                except UnicodeDecodeError:
                    reported.add(key)
                    yield Skip(printable(key), f"{self.name}: member {printable(member.name)} is not UTF-8 text")
            elif path.suffix.lower() in AUDIO_SUFFIXES:
                audio[key] = _source(self.name, member)
            if key in texts and key in audio:
                yield Utterance(key, audio.pop(key), texts.pop(key), 0.0, place=printable(self.name))
        for key in texts.keys() - reported:
            name = printable(key)
            yield Skip(name, f"{self.name}: member {name}.txt has no audio {name}.wav, .flac, ...")
        for key in audio.keys() - reported:
            name = printable(key)
            yield Skip(name, f"{self.name}: audio of {name!r} has no member {name}.txt")


class Excerpt(NamedTuple):
    """A line of NeMo's manifest: an utterance within a member of a tar."""

    key: str
    text: str
    start: float | None  # seconds; None for the whole member
    end: float | None


class NemoShard(NamedTuple):
    """A tar of NeMo, and the manifest's utterances in it, for each `member_stem`."""

    name: str  # place of the tar, see `open_bytes`
    excerpts: Mapping[str, Sequence[Excerpt]]

    def read(self, retries: int) -> Iterator[Utterance | Skip]:
        """See `Shard`. Members that the manifest does not list are ignored: its author left them out."""
        found, name = set(), printable(self.name)
        for member in read_members(self.name, retries):
            stem = member_stem(member.name)
            found.add(stem)
            for excerpt in self.excerpts.get(stem, ()):
                source = _source(self.name, member)
                yield Utterance(excerpt.key, source, excerpt.text, 0.0, excerpt.start, excerpt.end, place=name)
        for stem in self.excerpts.keys() - found:
            for excerpt in self.excerpts[stem]:
                yield Skip(excerpt.key, f"{self.name}: holds no audio {stem!r}, which the manifest lists")


def member_stem(name: str) -> str:
    """Return the name of a tar's member without folders and suffix, as NeMo's manifests refer to it."""
    return PurePosixPath(name).stem


def _source(place: str, member: Member) -> AudioSource:
    return AudioSource(place, member.offset, len(member.data), member.data)
