"""Stage -1: find, download or synthesise recordings of digits, and describe their source in source.json."""

import argparse
import errno
import gzip
import hashlib
import json
import shutil
import tarfile
import urllib.error
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fetch_corpus import fetch
from recordings import digest, list_takes, read_takes, recordings_folder
from synthesise import TAKES, VOICES, synthesise
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz"
ARCHIVE_SHA256 = "8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0"
# SHA-256 of the 2,500 recordings (`recordings.digest`), because GitHub sometimes repacks archives.
RECORDINGS_SHA256 = "a18dca5224feaf92ec296ac8f77fb04787e5b37616f1f60e16fecf96d2316d23"


@dataclass(frozen=True)
class Source:
    """The contents of source.json: a description of the recordings from which digit strings are made."""

    kind: Literal["recorded", "synthetic"]
    origin: str
    why: str  # reason for synthetic speech; empty: recorded speech
    recordings: str
    files: int
    speakers: list[str]
    sample_rate: int
    sha256: str


def download(folder: Path, url: str = URL) -> Path:
    """Return `folder`/recordings; if it is missing, first download, check and unpack the pinned release.

    Raises:
        OSError: the download failed, or the recordings cannot be written.
        ValueError: the downloaded file is not the release.
    """
    recordings = folder / "recordings"
    if recordings.is_dir():
        return recordings
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / url.rsplit("/", 1)[1]
    if not archive.exists():
        fetch(url, archive)
    unfinished = folder / "recordings.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and Path(member.name).parent.name == "recordings":
                    (unfinished / Path(member.name).name).write_bytes(tar.extractfile(member).read())
        takes = list_takes(recordings_folder(unfinished))
        read_takes(takes)
        if hashlib.sha256(archive.read_bytes()).hexdigest() != ARCHIVE_SHA256 and digest(takes) != RECORDINGS_SHA256:
            raise ValueError("neither its checksum nor that of its recordings is the known one")
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, FileNotFoundError, ValueError) as error:
        archive.unlink()
        raise ValueError(
            f"{url}: not the release that this recipe knows ({error}); what was downloaded is deleted. Try again, or"
            " fetch the data set in another way and pass its folder with --data"
        ) from error
    unfinished.rename(recordings)
    return recordings


def prepare(data: str, folder: Path) -> Source:
    """Find, download or synthesise the recordings, and return their description.

    Args:
        data: folder of the corpus; "synthetic"; or "" to download the corpus and, if that fails, to synthesise it.
        folder: folder for downloaded or synthetic recordings.
    Raises:
        OSError, ValueError: the recordings are missing or unusable, or cannot be synthesised.
    """
    why = "requested with --data synthetic" if data == "synthetic" else ""
    if data == "":
        try:
            recordings, origin = download(folder / "fsdd"), URL
        except OSError as error:
            if not isinstance(error, urllib.error.URLError) and (
                error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT)
            ):
                raise  # a full disk or a missing permission: the synthesis would fail too
            why = f"{URL} cannot be downloaded: {getattr(error, 'reason', error)}"
    elif data != "synthetic":
        recordings = recordings_folder(Path(data)).resolve()
        origin = str(recordings)
    if why:
        recordings, origin = folder / "synthetic", f"espeak-ng, {len(VOICES)} voices"
        if not recordings.is_dir():
            print(f"{why}\nsynthesising {len(VOICES) * TAKES * 10} takes with espeak-ng", flush=True)
            synthesise(recordings)
    takes = list_takes(recordings)
    _, rate = read_takes(takes)
    return Source(
        kind="synthetic" if why else "recorded",
        origin=origin,
        why=why,
        recordings=str(recordings.resolve()),
        files=len(takes),
        speakers=sorted({take.speaker for take in takes}),
        sample_rate=rate,
        sha256=digest(takes),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", default="", help="folder of the corpus; synthetic: espeak-ng; empty: download, else espeak-ng"
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder for downloaded or synthetic recordings")
    parser.add_argument("--output", type=Path, required=True, help="source.json to write")
    args = parser.parse_args(arguments)
    source = prepare(args.data, args.folder)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.output, json.dumps(asdict(source), indent=1) + "\n")
    rule = "*" * 100
    print(f"{rule}\n* {source.kind.upper()} SPEECH{': ' if source.why else ''}{source.why}")
    if source.why:
        print("* For recorded speech: --stage -1 --force true without --data; to use a copy: --data DIR")
    print(f"* {source.files} takes, {len(source.speakers)} speakers, {source.sample_rate} Hz: {source.origin}\n{rule}")
    return 0


if __name__ == "__main__":
    run_main(main)
