"""Files are replaced in one step, alone or as a set: a kill never leaves a mixture of old and new."""

import hashlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.runtime.full_disk import files_of_at_most
from wenet_fusion_runtime.files import (
    MAX_SHOWN,
    append_whole,
    check_sha256,
    hold_lock,
    list_problems,
    parse_json,
    read_lines,
    replacing,
    replacing_set,
    write_text,
)

NAMES = ("main", "part", "extra")
OLD = {"main": "old main", "part": "old part", "notes": "mine"}
NEW = {"main": "new main", "part": "new part", "extra": "new extra"}


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "model.pt") as part:
        part.write_bytes(b"whole")
        with pytest.raises(OSError, match="model.pt is being written by another process"):
            write_text(tmp_path / "model.pt", "half")
    assert (tmp_path / "model.pt").read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1


def test_devices_pipes_and_folders_are_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(OSError, match=f"{path} is a directory, a device or a pipe, which no file may replace"):
            write_text(path, "text")
    assert (
        pipe.is_fifo()
        and list(tmp_path.iterdir()) == [pipe]
        and not tmp_path.with_name(f"{tmp_path.name}.part").exists()
    )


def test_a_full_disk_is_reported_with_the_file_to_write(tmp_path: Path) -> None:
    """/dev/full acts as a full disk. The old file stays."""
    (tmp_path / "model.pt").write_text("old")
    for writing in (replacing(tmp_path / "model.pt"), replacing_set(tmp_path, ["model.pt"])):
        message = f"{tmp_path}.* cannot be written .No space left on device.; free some space"
        with pytest.raises(OSError, match=message), writing, open("/dev/full", "w") as disk:
            disk.write("new")
            disk.flush()
        assert [path.name for path in tmp_path.iterdir()] == ["model.pt"] and (
            tmp_path / "model.pt"
        ).read_text() == "old"


def test_long_lists_of_problems_are_cut() -> None:
    assert list_problems(["problem"] * MAX_SHOWN).splitlines() == ["problem"] * MAX_SHOWN
    shown = list_problems(["problem"] * (MAX_SHOWN + 1)).splitlines()
    assert shown == ["problem"] * MAX_SHOWN + [f"... {MAX_SHOWN + 1} problems in all"]


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("\ufeffa\u2028b\nc\n".encode())
    assert read_lines(tmp_path / "text") == ["a\u2028b", "c"]
    (tmp_path / "text").write_bytes(b"\xff\xfea")
    with pytest.raises(ValueError, match="text: not UTF-8 text"):
        read_lines(tmp_path / "text")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf16_is_named_even_where_other_bytes_are_kept(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "list").write_bytes(
        "\ufeffa\nb\n".encode("utf-16-be") if encoding == "utf-16-be" else "a\n".encode(encoding)
    )
    with pytest.raises(ValueError, match="list: not UTF-8 text but UTF-16; convert it"):
        read_lines(tmp_path / "list", "surrogateescape")


def test_a_block_that_removes_its_file_leaves_the_old_one(tmp_path: Path) -> None:
    for old in ({}, {"a": "old"}):
        for name, text in old.items():
            (tmp_path / name).write_text(text)
        with replacing(tmp_path / "a") as part:
            part.write_text("new")
            part.unlink()
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == old


# ---- sets


def write(folder: Path, files: dict[str, str]) -> None:
    with replacing_set(folder, NAMES) as part:
        for name, text in files.items():
            (part / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for name, text in OLD.items():
        (folder / name).write_text(text)
    return folder


def test_a_set_takes_the_place_of_another_and_leaves_what_is_not_its_own(folder: Path, tmp_path: Path) -> None:
    write(folder, NEW)
    assert content(folder) == NEW | {"notes": "mine"}
    write(folder, {"main": "third"})
    assert content(folder) == {"main": "third", "notes": "mine"}, "files that were not written are gone"
    write(tmp_path / "deep/fresh", NEW)
    assert content(tmp_path / "deep/fresh") == NEW
    assert {path.name for path in folder.iterdir()} == {"main", "notes"}, "nothing temporary is left"


def test_a_failure_leaves_everything_as_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (folder, tmp_path / "fresh"):
        with pytest.raises(ValueError), replacing_set(place, NAMES) as part:
            (part / "main").write_text("half")
            raise ValueError
    assert content(folder) == OLD and [path.name for path in folder.iterdir() if path.is_dir()] == []
    assert not (tmp_path / "fresh").exists()

    honest = os.replace

    def full_disk(source: Path, target: Path) -> None:
        if Path(source).parent.name == "new" and Path(target).name == "extra":
            raise OSError("no space left")
        honest(source, target)

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write(folder, NEW)
    assert content(folder) == OLD, "some new files were in place already"


def test_two_writers_of_one_folder(folder: Path) -> None:
    with replacing_set(folder, NAMES) as part:
        (part / "main").write_text("whole")
        with pytest.raises(OSError, match="set is being written by another process"):
            write(folder, NEW)
    assert content(folder)["main"] == "whole"


KILLED = """
import os, sys
from pathlib import Path
from wenet_fusion_runtime.files import replacing_set

folder, names, calls = Path(sys.argv[1]), sys.argv[3].split(), int(sys.argv[2])

def counted(function):
    def call(*arguments, **options):
        global calls
        if calls == 0:
            os._exit(9)
        calls -= 1
        return function(*arguments, **options)
    return call

with replacing_set(folder, names) as part:
    for name in names:
        (part / name).write_text("new " + name)
    for name in ("replace", "link", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
"""


def test_a_kill_at_any_moment_leaves_no_mixture(tmp_path: Path) -> None:
    """A kill leaves the old set, the new set, or a set without its first file, which the next writer restores."""
    outcomes = set()
    for calls in range(30):
        folder = tmp_path / str(calls)
        folder.mkdir()
        for name, text in OLD.items():
            (folder / name).write_text(text)
        done = subprocess.run([sys.executable, "-c", KILLED, folder, str(calls), " ".join(NAMES)], timeout=60)
        assert done.returncode in (0, 9)
        found = content(folder)
        if "main" in found:
            assert found in (OLD, NEW | {"notes": "mine"})
        with pytest.raises(ValueError), replacing_set(folder, NAMES):
            raise ValueError
        expected = OLD if "main" not in found or found == OLD else NEW | {"notes": "mine"}
        assert content(folder) == expected and len(list(folder.iterdir())) == len(expected)
        outcomes.add(("main" in found, found.get("main")))
        if done.returncode == 0:
            break
    assert done.returncode == 0 and outcomes == {(True, "old main"), (False, None), (True, "new main")}


# ---- appended lines, locks, checksums, JSON


def test_what_does_not_fit_the_disk_is_not_appended_in_part(tmp_path: Path) -> None:
    with io.FileIO(tmp_path / "log", "a") as file:
        append_whole(file, b"one\n" * 100)
        with (
            files_of_at_most(600),
            pytest.raises(OSError, match=f"{tmp_path}/log cannot be written .*; free some space"),
        ):
            append_whole(file, b"two\n" * 100)
        append_whole(file, b"end\n")
    assert (tmp_path / "log").read_bytes() == b"one\n" * 100 + b"end\n"


HOLDER = """
import sys, time
from pathlib import Path
from wenet_fusion_runtime.files import hold_lock
file = hold_lock(Path(sys.argv[1]), "taken by {holder}")
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(OSError, match=f"taken by {holder.pid}"):
                hold_lock(path, "taken by {holder}")
        finally:
            holder.send_signal(signal.SIGKILL)
    hold_lock(path, "taken by {holder}").close()
    assert path.read_text() == f"{os.getpid()}\n"


def test_a_file_with_another_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(b"program")
    digest = hashlib.sha256(b"program").hexdigest()
    check_sha256(path, digest)
    check_sha256(path, digest.upper())
    with pytest.raises(ValueError, match=f"{path}: its SHA-256 is {digest}, expected {'0' * 64}: it is another file"):
        check_sha256(path, "0" * 64)
    for wrong in ("", "abc", "g" * 64, digest + "0"):
        with pytest.raises(ValueError, match="is not a SHA-256: give 64 hexadecimal digits"):
            check_sha256(path, wrong)


@pytest.mark.parametrize("text", ["[" * 100000, '{"a":' * 100000, "nul", b"\xff"])
def test_json_from_outside_raises_one_kind_of_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
