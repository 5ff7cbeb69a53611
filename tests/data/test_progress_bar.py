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
    assert "\r" not in log and log.isascii() and log.splitlines()[1].startswith("epoch 3: 40/40 [00:0")
    assert screen.count("epoch 3") > 3


def test_other_lines_appear_between_the_lines_of_a_bar(monkeypatch):
    """A bar without a known end makes room for another line; with `leave=False`, a bar leaves no line at its end."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    with progress_bar(None, None, "epoch 0", "batch") as bar:
        bar.update()
        bar.clear()
        print("step 1: dev loss 2.0", file=written)
        bar.update()
    with progress_bar(range(3), 3, "headers", "utt", leave=False) as bar:
        assert list(bar) == [0, 1, 2]
    lines = written.getvalue().split("\n")
    assert [line.split(" [")[0] for line in lines] == [
        "epoch 0: 0/?", "step 1: dev loss 2.0", "epoch 0: 2/?", "headers: 0/3", ""
    ]  # fmt: skip
