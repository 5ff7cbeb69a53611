"""Open files, URLs and the output of commands as streams of bytes."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from wenet_fusion_runtime.files import printable

COMMAND = "pipe:"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_TIMEOUT_SECONDS = 60.0  # timeout of a server
SILENCE_SECONDS = 600.0  # timeout of a command that writes nothing
_PATIENCE_SECONDS = 5.0  # time for a command to end after its output is closed
_SHOWN_ERROR = 300  # number of characters to show from the end of a command's standard error
_BLOCK = 1 << 20  # bytes
_PIPE_CLOSED = (-signal.SIGPIPE, 128 + signal.SIGPIPE)  # exit status of a command whose output was closed
# HTTP status codes after which another try may succeed.
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class TransportError(OSError):
    """A transfer failed: a connection broke, a server is busy, a command failed. Another try may succeed."""


class ByteStream:
    """A stream of bytes whose read errors are all TransportErrors.

    Args:
        file: open binary file.
        place: name of the file in messages.

    >>> import io
    >>> ByteStream(io.BytesIO(b"abc"), "abc").read(2)
    b'ab'
    """

    def __init__(self, file: Any, place: str) -> None:
        self._file, self._place = file, place

    def read(self, count: int) -> bytes:
        """Return at most `count` bytes; b"" at the end."""
        try:
            data = self._file.read(count)
        except Exception as error:  # client libraries of object stores raise their own exceptions
            raise TransportError(f"{self._place}: {error or type(error).__name__}") from error
        missing = getattr(self._file, "length", None) if isinstance(self._file, http.client.HTTPResponse) else None
        if not data and count and missing:
            raise TransportError(f"{self._place}: the connection ended {missing} bytes too early")
        return data


class _Output:
    """The output of a command, with a timeout."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, count: int) -> bytes:
        if not select.select([self._file], [], [], SILENCE_SECONDS)[0]:
            raise TimeoutError(f"no bytes for {SILENCE_SECONDS:g} s")
        return self._file.read(count)


def is_elsewhere(place: str) -> bool:
    """Return whether a place is a URL or a command, not a file.

    >>> [is_elsewhere(place) for place in ("s3://bucket/a.tar", "pipe:cat a.tar", "/corpus/a.tar")]
    [True, True, False]
    """
    return place.startswith(COMMAND) or bool(_URL.match(place))


@contextlib.contextmanager
def open_bytes(place: str) -> Iterator[ByteStream]:
    """Open a file, a URL (http, https, or what fsspec can open: s3, gs, ...) or a command ("pipe:COMMAND") to read.

    Raises:
        TransportError: the transfer or the command fails.
        OSError: there is no such file or URL, or reading it is not permitted.
        ImportError: the place needs a package that is not installed.
    """
    name = printable(place)
    if place.startswith(COMMAND):
        with _output_of(place[len(COMMAND) :], name) as stream:
            yield stream
    elif place.startswith(("http://", "https://")):
        with _response(place, name) as response:
            yield ByteStream(response, name)
    elif _URL.match(place):
        with _remote_file(place, name) as file:
            yield ByteStream(file, name)
    else:
        with open(place, "rb") as file:
            yield ByteStream(file, name)


def _response(place: str, name: str) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(place, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        kind = TransportError if error.code in _PASSING else OSError
        raise kind(f"{name}: the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise TransportError(f"{name}: {getattr(error, 'reason', error) or type(error).__name__}") from error
    except ValueError as error:
        raise OSError(f"{name}: {error}") from error


def _remote_file(place: str, name: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise ImportError(f"{name}: needs fsspec: pip install 'wenet-fusion[remote]'") from error
    try:
        return fsspec.open(place, "rb").open()
    except ImportError as error:  # s3fs, gcsfs, ... is missing
        raise ImportError(f"{name}: {error} (with pip)") from error
    except FileNotFoundError as error:  # the message of some stores is only the path
        raise FileNotFoundError(f"{name}: there is no such file in the store") from error
    except (PermissionError, ValueError) as error:
        raise OSError(f"{name}: {error or type(error).__name__}") from error
    except Exception as error:
        raise TransportError(f"{name}: {error or type(error).__name__}") from error


@contextlib.contextmanager
def _output_of(command: str, name: str) -> Iterator[ByteStream]:
    """Run a command in a shell. A nonzero exit status is an error; with bash, every command of a pipeline counts."""
    bash = shutil.which("bash")
    shell = [bash, "-o", "pipefail", "-c"] if bash else ["sh", "-c"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*shell, command],
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        assert process.stdout is not None
        failure = None
        try:
            stream = ByteStream(_Output(process.stdout), name)
            yield stream
            while stream.read(_BLOCK):  # zeros may follow the end of a tar
                pass
        except Exception as error:
            failure = error
        finally:
            status = _end(process)
        if status and (failure is None or status not in _PIPE_CLOSED):
            errors.seek(0)
            said = " ".join(errors.read().decode("utf-8", "replace").split())[-_SHOWN_ERROR:]
            raise TransportError(f"{name}: the command ended with status {status}: {said or 'without a message'}")
        if failure is not None:
            raise failure


def _end(process: subprocess.Popen) -> int | None:
    """Close the output of a command and end it; return its status, or None if it had to be killed."""
    assert process.stdout is not None
    process.stdout.close()
    try:
        return process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None
