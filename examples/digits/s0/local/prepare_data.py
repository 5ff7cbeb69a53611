"""Stage -1: finds, downloads or synthesises spoken digits and writes down which; does not know what is made of them."""

import argparse
import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from recordings import digest, list_takes, read_takes, recordings_folder
from synthesise import TAKES, VOICES, synthesise
from tqdm import tqdm

URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz"
ARCHIVE_SHA256 = "8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0"
# Of the 2,500 recordings themselves (`recordings.digest`): GitHub packs archives anew now and then.
RECORDINGS_SHA256 = "a18dca5224feaf92ec296ac8f77fb04787e5b37616f1f60e16fecf96d2316d23"
TIMEOUT_SECONDS = 10


def fetch(url: str, target: Path) -> None:
    """Downloads `url` to `target`; a file that was left unfinished is continued.

    Raises:
        OSError: no network, refused, or cut off (what has arrived is kept in `target`.part).
    """
    part = target.with_name(target.name + ".part")
    present = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={present}-"} if present else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        resumed = response.status == 206
        total = int(response.headers.get("Content-Length") or 0) + (present if resumed else 0)
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(total=total or None, initial=file.tell(), unit="B", unit_scale=True, desc=target.name) as bar,
        ):
            while block := response.read(1 << 16):
                file.write(block)
                bar.update(len(block))
    if total and part.stat().st_size < total:
        raise OSError(f"connection closed after {part.stat().st_size} of {total} bytes")
    part.rename(target)


def download(folder: Path) -> Path:
    """Puts the pinned release into `folder`/recordings, checked before it is renamed into place; returns that path.

    Raises:
        OSError: the download failed.
        ValueError: what arrived is not the release.
    """
    recordings = folder / "recordings"
    if recordings.is_dir():
        return recordings
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / URL.rsplit("/", 1)[1]
    if not archive.exists():
        fetch(URL, archive)
    same_archive = hashlib.sha256(archive.read_bytes()).hexdigest() == ARCHIVE_SHA256
    unfinished = Path(tempfile.mkdtemp(prefix="unpacking.", dir=folder))
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and Path(member.name).parent.name == "recordings":
                    (unfinished / Path(member.name).name).write_bytes(tar.extractfile(member).read())
        takes = list_takes(recordings_folder(unfinished))
        read_takes(takes)
        if not same_archive and digest(takes) != RECORDINGS_SHA256:
            raise ValueError("neither its checksum nor that of its recordings is the known one")
        unfinished.chmod(0o755)
        unfinished.rename(recordings)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        archive.unlink()
        raise ValueError(
            f"{URL}: not the release that this recipe knows ({error}); the file was deleted. Try again, or fetch the"
            " data set in another way and pass its folder with --data"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return recordings


def prepare(data: str, folder: Path) -> dict[str, object]:
    """Obtains the recordings and returns what `source.json` says about them.

    Args:
        data: a checkout of the corpus, "synthetic", or "" to download, and to synthesise without a network.
        folder: where downloaded or synthetic recordings are kept.
    """
    kind, why, synthetic = "recorded", "", folder / "synthetic"
    if data not in ("", "synthetic"):
        recordings = recordings_folder(Path(data)).resolve()
        origin = str(recordings)
    elif data == "":
        try:
            recordings = download(folder / "fsdd")
            origin = URL
        except OSError as error:
            reason = getattr(error, "reason", error)
            kind, why = "synthetic", f"{URL} cannot be downloaded ({reason})"
    else:
        kind, why = "synthetic", "asked for with --data synthetic"
    if kind == "synthetic":
        recordings, origin = synthetic, f"espeak-ng, {len(VOICES)} voices"
        if not synthetic.is_dir():
            print(f"{why}: synthesising {len(VOICES) * TAKES * 10} takes with espeak-ng", flush=True)
            synthesise(synthetic)
    takes = list_takes(recordings)
    _, rate = read_takes(takes)
    return {
        "kind": kind,
        "origin": origin,
        "why": why,
        "recordings": str(recordings.resolve()),
        "files": len(takes),
        "speakers": sorted({take.speaker for take in takes}),
        "sample_rate": rate,
        "sha256": digest(takes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="", help="checkout of the corpus; 'synthetic'; empty: download it")
    parser.add_argument("--folder", type=Path, required=True, help="where downloaded or synthetic recordings are kept")
    parser.add_argument("--output", type=Path, required=True, help="source.json, the description of the recordings")
    args = parser.parse_args()
    try:
        source = prepare(args.data, args.folder)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.output.with_suffix(".tmp")
    unfinished.write_text(json.dumps(source, indent=1) + "\n")
    unfinished.replace(args.output)
    rule = "*" * 100
    title = "RECORDED SPEECH" if source["kind"] == "recorded" else f"SYNTHETIC SPEECH ({source['why']})"
    print(
        f"{rule}\n* {title}\n* {source['files']} takes, {len(source['speakers'])} speakers,"
        f" {source['sample_rate']} Hz: {source['origin']}\n{rule}"
    )


if __name__ == "__main__":
    main()
