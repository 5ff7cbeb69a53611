"""Transcribe a set with Whisper or PocketSphinx, to compare the recipe's model with them on the same files.

Each line of the output has a key and the recognised words; `wenet-fusion score REFERENCE OUTPUT` counts the errors. The
file OUTPUT.made_from names the system, so that an output never mixes the transcripts of two systems.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from check_speech import Whisper
from language import transcript
from tqdm import tqdm
from wenet_fusion_runtime import load_audio
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

from wenet_fusion.data.lists.kaldi import read_table

_SAMPLE_RATE = 16000


def pocketsphinx() -> Callable[[np.ndarray], str]:
    """Return a function that transcribes float32 samples with PocketSphinx's English model.

    Raises:
        OSError: the package is missing.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise OSError("pocketsphinx is missing; run: pip install pocketsphinx") from error
    decoder = Decoder(samprate=_SAMPLE_RATE, loglevel="FATAL")

    def transcribe(samples: np.ndarray) -> str:
        decoder.start_utt()
        decoder.process_raw((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        best = decoder.hyp()
        return best.hypstr if best else ""

    return transcribe


def claim_output(output: Path, system: str) -> None:
    """Write the name of the system to a file beside the output.

    Raises:
        ValueError: the output holds lines of another or an unknown system.
    """
    record = output.with_name(f"{output.name}.made_from")
    if output.exists() and output.stat().st_size:
        earlier = record.read_text(encoding="utf-8").strip() if record.exists() else "an unknown system"
        if earlier != system:
            raise ValueError(f"{output}: holds lines of {earlier}, not {system}; delete it, or give another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(record, f"{system}\n")


def transcribe_set(folder: Path, transcribe: Callable[[np.ndarray], str], output: Path) -> int:
    """Append the transcripts that are missing in `output`; return the number of utterances in the set."""
    done = read_table(output) if output.exists() else {}
    paths = read_table(folder / "wav.scp")
    with output.open("a", encoding="utf-8") as file:
        for key in tqdm([key for key in paths if key not in done], desc=str(output), unit="utterance", disable=None):
            words = transcript(transcribe(load_audio(paths[key], _SAMPLE_RATE)))
            file.write(f"{key} {words}".rstrip() + "\n")
            file.flush()
    return len(paths)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="example: python local/transcribe_reference.py whisper data/words --output exp/whisper/words",
    )
    parser.add_argument("system", choices=["whisper", "pocketsphinx"], help="system that transcribes")
    parser.add_argument("folder", type=Path, help="set with wav.scp")
    parser.add_argument(
        "--model", default="base", help="name or folder of a faster-whisper model (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="file to write; utterances that it already holds are skipped"
    )
    args = parser.parse_args(argv)
    claim_output(args.output, f"whisper {args.model}" if args.system == "whisper" else args.system)
    transcribe = Whisper(args.model).transcribe if args.system == "whisper" else pocketsphinx()
    print(f"{args.output}: {transcribe_set(args.folder, transcribe, args.output)} utterances")
    return 0


if __name__ == "__main__":
    run_main(main)
