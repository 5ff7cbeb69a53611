"""The command `mic` on a terminal that a script watches, feeds and resizes."""

import os
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pyte
import pytest
from support.runtime.pipes import wait_for_reader
from wenet_fusion_runtime.cli.__main__ import main


class Session:
    """The command on a terminal of 30 columns. A script, which runs in a thread, feeds it through a pipe."""

    def __init__(self) -> None:
        import pty

        self.screen, self.raw = pyte.Screen(30, 10), b""
        self._stream = pyte.ByteStream(self.screen)
        self._master, self._slave = pty.openpty()
        self._audio, self._writer = os.pipe()
        self._set_size()

    def run(self, script: Callable[[], None], *arguments: object) -> int:
        """Run the command and the script; return the exit status, or raise the error of the script."""
        failures: list[BaseException] = []

        def beside() -> None:
            try:
                script()
            except BaseException as failure:
                failures.append(failure)
            os.close(self._writer)

        reader, writer = threading.Thread(target=self._read), threading.Thread(target=beside)
        with pytest.MonkeyPatch.context() as patch, os.fdopen(self._slave, "w") as out, os.fdopen(self._audio) as audio:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stdin", audio)
            patch.setenv("TERM", "xterm")
            reader.start()
            writer.start()
            status = main(["mic", *map(str, arguments)])
            writer.join(30)
            wait_for_reader()
        reader.join(30)
        os.close(self._master)
        if failures:
            raise failures[0]
        return status

    def feed(self, samples: np.ndarray) -> None:
        os.write(self._writer, samples.astype("<i2").tobytes())

    def resize(self, columns: int) -> None:
        """Resize the terminal once all output has arrived: no output for the old width may be drawn at the new one."""
        written = -1
        while written != len(self.raw):
            written = len(self.raw)
            time.sleep(0.3)
        self.screen.resize(10, columns)
        self._set_size()

    def wait_for(self, *lines: str) -> None:
        """Wait until the terminal shows these rows."""
        deadline = time.monotonic() + 20
        while self.rows() != list(lines):
            assert time.monotonic() < deadline, (self.rows(), lines)
            time.sleep(0.01)

    def rows(self) -> list[str]:
        return [row.rstrip() for row in self.screen.display if row.strip()]

    def _set_size(self) -> None:
        import fcntl
        import struct
        import termios

        size = struct.pack("HHHH", self.screen.lines, self.screen.columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 4096):
                self.raw += data
                self._stream.feed(data)
        except OSError:  # on Linux: the other side has closed
            pass
