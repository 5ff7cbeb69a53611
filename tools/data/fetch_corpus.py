#!/usr/bin/env python3
"""Download the archives of a corpus, verify their checksums and unpack them. Resume interrupted downloads.

Example: python tools/data/fetch_corpus.py --url https://www.openslr.org/resources/12 --checksums local/md5sum.txt \\
    --folder data/corpus dev-clean.tar.gz test-clean.tar.gz
"""

import argparse
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import read_lines

TIMEOUT_SECONDS = 10
ATTEMPTS = 20  # maximum number of attempts at one file from one mirror
ARCHIVES = (".tar.gz", ".tgz", ".tar")
ALGORITHMS = {32: "md5", 64: "sha256"}  # by the number of digits of a checksum


def fetch(url: str, target: Path) -> None:
    """Download `url` to `target`. An unfinished download is resumed if the server allows it.

    Raises:
        OSError: there is no network, or the server refused or cut off the download; the received part stays in
            `target`.part.
    """
    part = target.with_name(target.name + ".part")
    present = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={present}-"} if present else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            resumed = response.status == 206
            total = int(response.headers.get("Content-Length") or 0) + (present if resumed else 0)
            with (
                part.open("ab" if resumed else "wb") as file,
                tqdm(total=total or None, initial=file.tell(), unit="B", unit_scale=True, desc=part.name) as bar,
            ):
                while block := response.read(1 << 16):
                    file.write(block)
                    bar.update(len(block))
    except http.client.HTTPException as error:
        raise OSError(f"connection closed: {error!r}") from error
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # it is not shorter than the file: either complete but not renamed, or of another file
        raise
    if total and part.stat().st_size < total:
        raise OSError(f"connection closed after {part.stat().st_size} of {total} bytes")
    part.rename(target)


def fetch_from_mirrors(urls: Sequence[str], target: Path) -> None:
    """Download a file from the first mirror that has it; repeat an interrupted download while it makes progress.

    Raises:
        OSError: no mirror delivered the whole file (the received part stays in `target`.part), or the disk is full.
    """
    part, reasons = target.with_name(target.name + ".part"), []
    for url in urls:
        for _ in range(ATTEMPTS):
            before = part.stat().st_size if part.exists() else 0
            try:
                fetch(url, target)
                return
            except OSError as error:
                network = isinstance(error, (urllib.error.URLError, ConnectionError))
                if not network and (error.filename or error.errno):
                    raise  # a full disk or a missing permission
                reason = f"{url}: {getattr(error, 'reason', error)}"
            if (part.stat().st_size if part.exists() else 0) <= before:
                break
        reasons.append(reason)
    raise OSError(
        f"{target.name} cannot be downloaded ({'; '.join(reasons)}); run the same command again to go on, or fetch the "
        "corpus in another way and pass its folder with --data"
    )


def read_checksums(path: Path) -> dict[str, str]:
    """Read the output of md5sum or sha256sum (lines "checksum  name") by name. Raises OSError or ValueError."""
    found = {}
    for number, line in enumerate(read_lines(path), start=1):
        checksum, _, name = line.strip().partition(" ")
        if not checksum or checksum.startswith("#"):
            continue
        if len(checksum) not in ALGORITHMS or not name.strip():
            raise ValueError(f"{path}:{number}: {line!r}: expected the output of md5sum or sha256sum")
        found[name.strip().lstrip("*")] = checksum.lower()
    return found


def check(path: Path, expected: str) -> None:
    """Compare the checksum of a file with the expected one. If they differ, delete the file and raise ValueError."""
    digest = hashlib.new(ALGORITHMS[len(expected)])
    size = path.stat().st_size
    with path.open("rb") as file, tqdm(total=size, unit="B", unit_scale=True, desc=f"check {path.name}") as bar:
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != expected:
        path.unlink()
        raise ValueError(
            f"{path}: its {digest.name} is {digest.hexdigest()}, expected {expected}; it is deleted: run the same "
            "command again, or take another mirror with --url"
        )


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive and the archives inside it; move the files to `folder` when all are unpacked.

    Raises:
        ValueError: the archive is damaged, or the path of a member leads out of the folder.
    """
    unfinished = folder / f".unpacking-{archive.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    _extract(archive, unfinished)
    for inner in sorted(path for path in unfinished.rglob("*") if path.name.endswith(ARCHIVES)):
        _extract(inner, inner.parent)
        inner.unlink()
    _move_into(unfinished, folder)
    shutil.rmtree(unfinished)


def _extract(archive: Path, folder: Path) -> None:
    """Write the regular files of an archive; skip links and devices."""
    folder.mkdir(parents=True, exist_ok=True)
    root = folder.resolve()
    try:
        with tarfile.open(archive) as tar:
            for member in tqdm(tar, desc=f"unpack {archive.name}", unit="file", leave=False, disable=None):
                target = (root / member.name).resolve()
                if not target.is_relative_to(root):
                    raise ValueError(f"{archive}: {member.name!r} leads out of the folder: take another archive")
                if not member.isfile():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None  # it is a file
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise ValueError(f"{archive}: damaged ({error}); delete it and run the same command again") from error


def _move_into(source: Path, destination: Path) -> None:
    """Move a folder tree into another: existing folders are merged, and existing files replaced."""
    for entry in sorted(source.iterdir()):
        target = destination / entry.name
        if entry.is_dir() and target.is_dir():
            _move_into(entry, target)
        else:
            os.replace(entry, target)


def fetch_archive(name: str, urls: Sequence[str], checksums: Mapping[str, str], folder: Path) -> None:
    """Download a file to `folder` and verify its checksum. If it is an archive, unpack it and delete it.

    Raises:
        OSError: the download failed.
        ValueError: no checksum is known for the file, its checksum differs, or the archive is damaged.
    """
    if name not in checksums:
        raise ValueError(f"{name}: no checksum is known; choose from {', '.join(checksums)}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if not path.exists():
        fetch_from_mirrors([f"{url.rstrip('/')}/{name}" for url in urls], path)
    check(path, checksums[name])
    if name.endswith(ARCHIVES):
        unpack(path, folder)
        path.unlink()
    print(f"{folder / name}: {'unpacked' if name.endswith(ARCHIVES) else 'complete'}, checksum {checksums[name]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="file to download; .tar.gz, .tgz and .tar are unpacked"
    )
    parser.add_argument(
        "--url", nargs="+", required=True, help="URL of the folder with the files; several mirrors are tried in order"
    )
    parser.add_argument("--checksums", type=Path, required=True, help="file with the output of md5sum or sha256sum")
    parser.add_argument("--folder", type=Path, required=True, help="folder to download to")
    args = parser.parse_args(arguments)
    checksums = read_checksums(args.checksums)
    for name in args.names:
        fetch_archive(name, args.url, checksums, args.folder)
    return 0


if __name__ == "__main__":
    run_main(main)
