"""The progress bar: drawn often on a terminal, rarely in a log."""

import io
import sys
import time

from wenet_fusion.data.progress_bar import progress_bar


def test_a_bar_draws_often_on_a_terminal_and_rarely_in_a_log(monkeypatch):
    def drawn(terminal):
        written = io.StringIO()
        written.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stderr", written)
        with progress_bar(None, 40, "epoch 3", "batch") as bar:
            for step in range(40):
                time.sleep(0.01)
                bar.set_postfix(loss=step)
                bar.update()
        return written.getvalue()

    log, screen = drawn(False), drawn(True)
    assert log.count("epoch 3") == 2 and "40/40" in log  # when it begins and when it ends
    assert "loss=39" in log
    assert screen.count("epoch 3") > 3
