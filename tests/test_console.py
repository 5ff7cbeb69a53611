"""How commands end: the user's mistakes in one line, ours with a traceback."""

import pytest

from wenet_fusion.console import run_main


def end(error, capsys):
    """Exit status and standard error of a command that raises this."""

    def main(_):
        raise error

    with pytest.raises(SystemExit) as caught:
        run_main(main)
    return caught.value.code, capsys.readouterr().err


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
