"""Write a file with torch.save, whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from wenet_fusion_runtime.files import link_or_copy, replacing

from wenet_fusion.training.state.disk_file import DiskFile


def save_atomically(content: Any, path: Path, before: Path | None = None) -> None:
    """Write a file with torch.save; a kill at any moment leaves either the complete old file or the complete new one.

    Args:
        content: what to write.
        path: the file.
        before: path under which the old file is kept; None: it is not kept.

    Raises:
        OSError: the disk is full, or the folder cannot be written; the old file stays.
    """
    with replacing(path) as temporary:
        with DiskFile(temporary) as disk:
            torch.save(content, disk)
        disk.raise_failure()
        if before is not None and path.exists():
            with replacing(before) as kept:
                link_or_copy(path, kept)
