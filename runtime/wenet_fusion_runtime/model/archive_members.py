"""Read members of zip archives that may be damaged."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from pathlib import Path

# zipfile raises RuntimeError for encrypted members, its subclass NotImplementedError for unknown formats, and OSError
# or ValueError for positions outside the file.
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, OSError, ValueError)


def read_member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """Return a member of an exported file.

    Args:
        archive: the open archive.
        name: name of the member.
        path: path of the archive, for messages.
    Raises:
        ValueError: the member is missing or damaged.
    """
    try:
        return archive.read(name)
    except KeyError:
        raise ValueError(f"{path}: has no {name}; export the model again") from None
    except DAMAGE as error:
        raise ValueError(f"{path}: {name} is damaged ({error}); copy or export the file again") from None
