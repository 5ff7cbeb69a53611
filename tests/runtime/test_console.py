"""The end of a command: a user's error gives one line, a defect gives a traceback."""

import argparse
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from wenet_fusion_runtime.console import HelpFormatter, exit_status, run_main, unusable_package

LESS = "close other programs, or give less work at a time"


def end(error, capsys):
    """Return exit status and standard error of a command that raises this error."""

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
        "a number (default: 3)",
        "another (default: 4)",
        "a third (default: 0)",
        "default: the model's",
        "nothing",
        "some",
        "whether",
    ]


def test_help_wraps_paragraphs_and_keeps_indented_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "32")
    epilog = (
        "Some words that fill more\nthan one line.\n\nexample:\n  %(prog)s --many words that fill more than one line"
    )
    parser = argparse.ArgumentParser("p", epilog=epilog, formatter_class=HelpFormatter)
    assert parser.format_help().endswith(
        "Some words that fill more than\none line.\n\nexample:\n  p --many words that fill more than one line\n"
    )


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
        (ImportError("needs onnx: pip install onnx"), 1, "error: needs onnx: pip install onnx\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            OSError(28, "No space left on device", "a.pt"),
            1,
            "error: a.pt: No space left on device; free some space, or name another place\n",
        ),
        (MemoryError(), 1, f"error: memory ran out; {LESS}\n"),
        (
            OSError(12, "Cannot allocate memory"),
            1,
            f"error: memory ran out ([Errno 12] Cannot allocate memory); {LESS}\n",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes\nat alloc.cpp"),
            1,
            "error: memory ran out (DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes); "
            f"{LESS}\n",
        ),
        (RuntimeError("CUDA out of memory. Tried"), 1, f"error: memory ran out (CUDA out of memory. Tried); {LESS}\n"),
        (RecursionError("too deep"), 1, "error: the input is nested too deeply (too deep); flatten it\n"),
        (
            OverflowError("cannot convert"),
            1,
            "error: a number of the input is too large (cannot convert); give a smaller one\n",
        ),
        (
            ValueError("embedded null byte"),
            1,
            "error: a path holds a NUL character (embedded null byte); take it out\n",
        ),
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
    monkeypatch.setenv("WENET_FUSION_TRACEBACK", "0")
    assert exit_status(lambda: int("mine")) == 1
    with pytest.raises(ValueError, match="mine"):
        exit_status(lambda: int("mine"), traceback=True)


def test_a_closed_output_pipe_is_a_failure_without_a_traceback():
    source = (
        "from wenet_fusion_runtime.console import run_main\ndef main(_):\n    raise BrokenPipeError\nrun_main(main)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("flush", [True, False])
def test_a_full_disk_behind_standard_output_is_one_line(flush):
    source = (
        "from wenet_fusion_runtime.console import run_main\n"
        f"def main(_):\n    print('text', flush={flush})\n    return 0\nrun_main(main)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", source]
    with open("/dev/full", "w") as disk:
        done = subprocess.run(command, env=environment, stdout=disk, stderr=subprocess.PIPE, text=True)
    message = "error: standard output: No space left on device; free some space, or name another place\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_a_thread_that_ends_with_a_users_error_prints_one_line(capsys):
    def write():
        raise OSError(28, "No space left on device", "events")

    def command():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        return 0

    before = threading.excepthook
    assert exit_status(command) == 0 and threading.excepthook is before
    err = capsys.readouterr().err
    assert err == "warning: events: No space left on device; free some space, or name another place\n"


def test_a_package_that_fails_to_import_is_not_called_missing():
    absent = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert str(unusable_package("torch", "needs torch: pip install torch", absent)) == "needs torch: pip install torch"
    for error in (
        ImportError("libtorch.so: failed to map segment", name="torch._C"),
        OSError("libgomp.so.1: cannot allocate memory in static TLS block"),
        ModuleNotFoundError("No module named 'typing_extensions'", name="typing_extensions"),
        MemoryError(),
    ):
        message = str(unusable_package("torch", "needs torch: pip install torch", error))
        assert message.startswith("torch is installed, but cannot be imported: ") and str(error) in message
        assert "pip" not in message
