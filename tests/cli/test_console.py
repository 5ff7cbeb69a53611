"""How commands end: the user's mistakes in one line, ours with a traceback."""

import argparse
import io
import sys
import time

import pytest

from wenet_fusion.console import HelpFormatter, progress_bar, run_main


def end(error, capsys):
    """Exit status and standard error of a command that raises this."""

    def main(_):
        raise error

    with pytest.raises(SystemExit) as caught:
        run_main(main)
    return caught.value.code, capsys.readouterr().err


def test_help_shows_defaults_once_and_only_where_there_are_some():
    parser = argparse.ArgumentParser(formatter_class=HelpFormatter)
    parser.add_argument("--plain", type=int, default=3, help="a number")
    parser.add_argument("--told", type=int, default=4, help="another (default: %(default)d)")
    parser.add_argument("--seed", type=int, default=0, help="a third")
    parser.add_argument("--model", help="default: the model's")
    parser.add_argument("--none", help="nothing")
    parser.add_argument("--many", nargs="*", default=[], help="some")
    parser.add_argument("--flag", action="store_true", help="whether")
    lines = [line.strip() for line in parser.format_help().splitlines()]
    told = [line.split("  ")[-1].strip() for line in lines if line.startswith("--")]
    assert told == [
        "a number (default: 3)", "another (default: 4)", "a third (default: 0)", "default: the model's", "nothing", "some",
        "whether",
    ]  # fmt: skip


def test_status_is_what_the_command_returns():
    for status in (0, 1):
        with pytest.raises(SystemExit) as caught:
            run_main(lambda _: status)
        assert caught.value.code == status


@pytest.mark.parametrize(
    "error, status, message",
    [
        (ValueError("a.pt is empty; give another"), 1, "error: a.pt is empty; give another\n"),
        (FileNotFoundError(2, "No such file or directory", "a.pt"), 1, "error: a.pt: No such file or directory\n"),
        (OSError("disk on fire"), 1, "error: disk on fire\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_mistakes_and_interruptions_end_in_one_line(capsys, error, status, message):
    assert end(error, capsys) == (status, message)


def test_defects_and_wanted_tracebacks_are_not_hidden(capsys, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run_main(lambda _: 1 // 0)
    monkeypatch.setenv("WENET_FUSION_TRACEBACK", "1")
    with pytest.raises(ValueError, match="mine"):
        run_main(lambda _: int("mine"))


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
