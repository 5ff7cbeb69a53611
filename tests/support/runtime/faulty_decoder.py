"""The process that decodes uploads, with a reader that fails if a file names a fault.

A file that contains only the name of a fault fails when it is opened. A file that ends with the name of a fault fails
after its first block.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from wenet_fusion_runtime.audio.reader import AudioReader
from wenet_fusion_runtime.server.decoding import decoder_process, decoders

START = decoders.START.replace("wenet_fusion_runtime.server.decoding.decoder_process", "support.runtime.faulty_decoder")
NAMES = (CRASH, HANG, MEMORY, BUG, EXIT) = (b"CRASH", b"HANG!", b"LARGE", b"BUG!!", b"EXIT!")


class FaultyReader(AudioReader):
    def __init__(self, source: str, name: str | None = None, channel: int | None = None) -> None:
        content = Path(source).read_bytes()
        self._fault = content[-5:]
        if content in NAMES:
            fail(self._fault)
        super().__init__(source, name, channel)

    def blocks(self, *arguments: float) -> Iterator[np.ndarray]:
        for block in super().blocks(*arguments):
            yield block
            fail(self._fault)


def fail(fault: bytes) -> None:
    if fault == CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == HANG:
        time.sleep(1000)
    elif fault == MEMORY:
        np.ones(1 << 27)  # 1 GiB
    elif fault == BUG:
        raise KeyError("a bug\n\x1b[2J")
    elif fault == EXIT:
        os._exit(3)


def main() -> None:
    decoder_process.AudioReader = FaultyReader
    decoder_process.main()
