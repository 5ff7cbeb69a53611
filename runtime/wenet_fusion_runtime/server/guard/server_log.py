"""The server's log, which is limited per client and written by a thread, so that it does not block sessions."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import OrderedDict

from wenet_fusion_runtime.console import visible
from wenet_fusion_runtime.server.guard.addresses import group
from wenet_fusion_runtime.server.guard.budget import Budget

WAITING_LINES = 1000  # most entries that wait in memory; further ones are dropped and counted
LINE_CHARACTERS = 16 * 1024  # most characters of an entry; a traceback fits
LINES_PER_SECOND = 10.0  # entries of one client
LINES_AT_ONCE = 100
CLIENTS = 1000  # most clients whose budgets are remembered
CLOSE_SECONDS = 1.0  # time for the last entries to be written
NAME = "wenet_fusion_runtime.server"  # name of the logger
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def start_log(level: str) -> None:
    """Write the log to standard error."""
    handler = QueuedHandler(descriptor=2)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger(NAME).addFilter(PerClientFilter())
    # aiohttp logs each unknown subprotocol, without a limit per client; a subprotocol may contain a token.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)


class QueuedHandler(logging.Handler):
    """Writes entries in a thread; drops and counts entries if too many wait, e.g. because a pipe is read slowly.

    Args:
        descriptor: file descriptor to write to.

    >>> handler = QueuedHandler(os.open(os.devnull, os.O_WRONLY))
    >>> handler.emit(logging.makeLogRecord({"msg": "started"}))
    >>> handler.close()
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(WAITING_LINES)
        self._dropped = 0  # protected by the handler's lock
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue an entry, or count it as dropped, without waiting."""
        try:
            self._lines.put_nowait(self.format(record)[:LINE_CHARACTERS])
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write the waiting entries, for at most CLOSE_SECONDS."""
        try:
            self._lines.put(None, timeout=CLOSE_SECONDS)
            self._thread.join(CLOSE_SECONDS)
        except queue.Full:
            pass
        super().close()

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self._dropped and self._lines.empty():
                with self.lock or threading.RLock():
                    dropped, self._dropped = self._dropped, 0
                self._write(f"{dropped} entries of the log were dropped: they came faster than they were read")

    def _write(self, line: str) -> None:
        # Bypass sys.stderr, for whose lock Python would wait at exit.
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # closed, or the disk is full: the server goes on without a log
                return


class PerClientFilter(logging.Filter):
    """Suppresses entries of a client that causes too many, and reports how many were suppressed.

    An entry belongs to a client if its format begins with "%s: " and its first argument with the client's address. All
    addresses of an IPv6 /64 network count as one client.

    >>> keep = PerClientFilter().filter
    >>> entry = lambda: logging.makeLogRecord({"msg": "%s: failed", "args": ("192.0.2.7 /ws",)})
    >>> sum(keep(entry()) for _ in range(1000)) < 200
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self._budgets: OrderedDict[str, Budget] = OrderedDict()
        self._suppressed: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write an entry, and append the number of suppressed entries to it."""
        if not (isinstance(record.args, tuple) and record.args and str(record.msg).startswith("%s: ")):
            return True
        client = group(str(record.args[0]).partition(" ")[0])
        budget = self._budgets.setdefault(client, Budget(LINES_PER_SECOND, LINES_AT_ONCE))
        self._budgets.move_to_end(client)
        if len(self._budgets) > CLIENTS:
            forgotten, _ = self._budgets.popitem(last=False)
            self._suppressed.pop(forgotten, None)
        if not budget.try_spend(1, time.monotonic()):
            self._suppressed[client] = self._suppressed.get(client, 0) + 1
            return False
        if count := self._suppressed.pop(client, 0):
            address = visible(client).replace("%", "%%")  # such as fe80::1%eth0
            record.msg = f"{record.msg} ({count} more entries of {address} suppressed)"
        return True
