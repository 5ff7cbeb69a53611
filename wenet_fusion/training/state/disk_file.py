"""A file that keeps the error of a failed write, which torch's writer would hide."""

import io
from pathlib import Path
from typing import Any


class DiskFile(io.FileIO):
    """A file that keeps its first write error for `raise_failure`, because torch's C++ writer would hide the cause.

    >>> with DiskFile(Path("/dev/full")) as disk:
    ...     _ = disk.write(b"weights")
    >>> disk.raise_failure()
    Traceback (most recent call last):
    OSError: [Errno 28] No space left on device
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")
        self._failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all bytes, or keep the error and drop the rest; return the size of `data` in both cases."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest and self._failure is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self._failure = error
        return size

    def raise_failure(self) -> None:
        """Raise the first error of `write`, if there was one."""
        if self._failure is not None:
            raise self._failure
