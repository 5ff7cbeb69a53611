"""The log, and texts of clients in the log and in errors."""

import json
import logging
import os
import time

import pytest
from support.runtime.server_process import PATIENCE
from wenet_fusion_runtime.console import visible
from wenet_fusion_runtime.server.errors import ClientError, Reason
from wenet_fusion_runtime.server.guard.server_log import LINES_AT_ONCE, WAITING_LINES, PerClientFilter, QueuedHandler
from wenet_fusion_runtime.server.session_options import parse_options
from wenet_fusion_runtime.stream.endpoints import EndpointRules


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    reading, writing = os.pipe()
    handler = QueuedHandler(writing)
    try:
        entries = 3 * WAITING_LINES
        for number in range(entries):
            handler.handle(logging.makeLogRecord({"msg": f"{number} {'x' * 200}"}))
        assert 0 < handler._dropped < entries
        found, end = b"", time.monotonic() + PATIENCE
        while b"entries of the log were dropped" not in found and time.monotonic() < end:
            found += os.read(reading, 1 << 16)
        lines = found.decode().splitlines()
        dropped = int(next(line for line in lines if "were dropped" in line).split()[0])
        assert lines[0].startswith("0 x") and dropped + sum("xx" in line for line in lines) == entries
    finally:
        os.close(reading)
        handler.close()
        os.close(writing)


def test_a_client_that_writes_too_many_entries_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    log = PerClientFilter()

    def shown(*args: object, text: str = "%s: failed") -> str | None:
        record = logging.makeLogRecord({"msg": text, "args": args})
        return record.getMessage() if log.filter(record) else None

    found = [shown("1.2.3.4 /ws") for _ in range(LINES_AT_ONCE + 50)]
    assert found.count("1.2.3.4 /ws: failed") == LINES_AT_ONCE and found[-50:] == [None] * 50
    assert shown("1.2.3.5 /ws") == "1.2.3.5 /ws: failed" and shown(3, text="stopping: %d") == "stopping: 3"
    now[0] = 1.0
    assert shown("1.2.3.4 /50%") == "1.2.3.4 /50%: failed (50 more entries of 1.2.3.4 suppressed)"
    assert shown("1.2.3.4 /ws") == "1.2.3.4 /ws: failed"
    for _ in range(LINES_AT_ONCE + 1):
        shown("fe80::1%eth0 /ws")
    now[0] = 2.0
    assert shown("fe80::1%eth0 /ws") == "fe80::1%eth0 /ws: failed (1 more entries of fe80::/64 suppressed)"
    assert [shown(f"2001:db8::{number:x} /ws") for number in range(LINES_AT_ONCE + 1)].count(None) == 1  # one network


def test_texts_from_outside_cannot_steer_a_terminal() -> None:
    assert visible("\x1b[2Jred\x07\x9b1m\nnext\u202ereversed\u2028") == (
        r"\x1b[2Jred\x07\x9b1m\nnext\u202ereversed\u2028"
    )
    kept = "ZWNJ می\u200cخواهم, 全角\u3000空白, é, 👩\u200d🔬"
    assert visible(kept) == kept and visible("\ud800") == r"\ud800"
    assert visible("x" * 1000, 100) == "x" * 100 + "..."


def test_errors_quote_the_beginning_of_a_value() -> None:
    for record in (
        {"k" * 100_000: 1},
        {"nbest": 1, "format": "f" * 100_000},
        {"hot_words": [list(range(20_000))]},
        {"endpoint": {"e" * 100_000: 1}},
        {"format": "\x1b[2J" * 10},
    ):
        with pytest.raises(ClientError) as caught:
            parse_options(record, EndpointRules())
        assert len(caught.value.message) < 500 and "\x1b" not in caught.value.message, json.dumps(record)[:50]
    assert len(ClientError(Reason.OPTION, "x" * 100_000).message) < 2000
