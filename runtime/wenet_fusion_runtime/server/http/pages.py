"""Load the files of the browser page into memory."""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[1] / "web"
INDEX = "index.html"
# Types that may be missing or different in the system's tables, which the module mimetypes reads.
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


class Page(NamedTuple):
    """One file of the page."""

    content: bytes
    content_type: str
    etag: str


def load_pages(folder: Path = FOLDER) -> dict[str, Page]:
    """Return the files of a folder by their paths on the server, e.g. "/style.css"; hidden files are left out.

    A folder's path means its index.html. Requests are answered from this dictionary, so no path can leave the folder.
    """
    pages = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith((".", "__")) for part in parts):
            continue
        content = path.read_bytes()
        kind = _TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        if kind.startswith("text/"):
            kind += "; charset=utf-8"
        page = Page(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        pages["/" + "/".join(parts)] = page
        if parts[-1] == INDEX:
            pages["/" + "".join(f"{part}/" for part in parts[:-1])] = page
    return pages
