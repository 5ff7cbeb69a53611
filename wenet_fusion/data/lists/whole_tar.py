"""Notice a tar that ends between two members, which `tarfile` takes for a whole one."""

import tarfile


class WholeTarInfo(tarfile.TarInfo):
    """The headers of a tar that must end with a block of zeros: `tarfile.open(path, tarinfo=WholeTarInfo)`.

    >>> WholeTarInfo("one.txt").name
    'one.txt'
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "WholeTarInfo":
        """Return the next header. Raises tarfile.ReadError if the file ends without the mark of its end."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]  # it is there
            if tarfile_.offset == 0:  # tarfile names an empty file
                raise
            raise tarfile.ReadError("ends without an end mark: it was cut off, or is still being written") from error
