"""Detect a tar that was cut off between two members, which `tarfile` accepts as complete."""

import tarfile


class WholeTarInfo(tarfile.TarInfo):
    """A tar header that checks for the block of zeros at the end: `tarfile.open(path, tarinfo=WholeTarInfo)`.

    >>> WholeTarInfo("one.txt").name
    'one.txt'
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "WholeTarInfo":
        """Return the next header; tarfile.ReadError if the file ends without an end mark."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]  # it exists
            if tarfile_.offset == 0:  # an empty file has its own message in tarfile
                raise
            raise tarfile.ReadError("ends without an end mark: it was cut off, or is still being written") from error
