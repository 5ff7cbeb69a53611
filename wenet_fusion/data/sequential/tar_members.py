"""Read the members of a tar one after another, and resume after a broken connection."""

from __future__ import annotations

import tarfile
import time
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from wenet_fusion.data.lists.whole_tar import WholeTarInfo
from wenet_fusion.data.sequential.byte_stream import TransportError, open_bytes

FIRST_PAUSE_SECONDS = 1.0  # pause before the second try; it doubles before each further try
_BLOCK = 1 << 18  # bytes read at once
_LONGEST_PAUSE_SECONDS = 60.0


class Member(NamedTuple):
    """A file in a tar."""

    number: int  # number of the member in the tar, from 0
    name: str
    offset: int  # position of its first byte in the (uncompressed) tar
    data: bytes


def read_members(place: str, retries: int) -> Iterator[Member]:
    """Yield the files of a tar, uncompressed or compressed by gzip, bzip2 or xz, in their order.

    Args:
        place: see `open_bytes`.
        retries: further tries after a failure; the count starts again whenever a new member arrives.

    Raises:
        OSError: the place cannot be read, even after further tries.
        ValueError: the tar is damaged.
        ImportError: the place needs a package that is not installed.
    """
    done = failures = 0
    while True:
        try:
            for member in _members_from(place, done):
                done, failures = member.number + 1, 0
                yield member
            return
        except TransportError as error:
            if failures >= retries:
                after = f"after {done} members, " * bool(done) + f"in {retries + 1} tries"
                raise OSError(f"{error} ({after}); check the network and the place, then start again") from error
        except (tarfile.TarError, EOFError, zlib.error) as error:
            last = f"after its first {done} members" if done else "at its beginning"
            raise ValueError(f"{place}: damaged {last}, or not a tar ({error})") from error
        time.sleep(min(FIRST_PAUSE_SECONDS * 2**failures, _LONGEST_PAUSE_SECONDS))
        failures += 1


def _members_from(place: str, first: int) -> Iterator[Member]:
    with (
        open_bytes(place) as stream,
        tarfile.open(fileobj=cast(Any, stream), mode="r|*", bufsize=_BLOCK, tarinfo=WholeTarInfo) as tar,
    ):
        for number, member in enumerate(tar):
            cast(Any, tar).members = []  # free the memory: tarfile keeps all members
            if number < first or not member.isfile():
                continue
            content = tar.extractfile(member)
            assert content is not None
            yield Member(number, member.name, member.offset_data, content.read())
