"""Write the calls of `vectors.py` as files for replay.cpp; print their names and checksums.

Usage: PYTHONPATH=tests python -m support.native.write_calls FOLDER
"""

import sys
from pathlib import Path

from support.native.native_library import build_kernels, import_kernels
from support.native.random_fused import recorded_call
from support.native.vectors import CACHED, CHECKSUMS, CHUNKS, vector


def main(folder: Path) -> None:
    """Write a file for each vector, and build the library in a folder beside `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder.with_name(folder.name + "_library")
    library.mkdir(exist_ok=True)
    kernels = import_kernels(build_kernels(library))
    for seed, checksum in CHECKSUMS.items():
        model, samples = vector(kernels, seed)
        (folder / str(seed)).write_bytes(recorded_call(model, samples, CHUNKS, CACHED))
        print(seed, checksum)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
