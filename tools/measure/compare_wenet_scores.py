#!/usr/bin/env python3
"""Compare the scores of exported files between two environments, e.g. with our and WeNet's versions of onnxruntime.

The tool runs the files as WeNet's runtimes do, on random features. The first call stores the scores; a call in the
other environment compares its scores with the stored ones. It needs only numpy, torch and onnxruntime.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))  # for our emulators of WeNet's runtimes
from support.model.wenet_runtime import AsrModel, OnnxAsrModel, SherpaModel, TorchAsrModel, greedy

FRAMES = 633  # the last chunk is short and ends within an encoder frame
REVERSE_WEIGHT = 0.3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "scores", type=Path, help="file of scores (.npz): written if it is missing, otherwise compared with"
    )
    parser.add_argument(
        "files", type=Path, nargs="+", help="TorchScript file, folder of --format wenet-onnx, or .onnx for sherpa-onnx"
    )
    parser.add_argument("--mel_bins", type=int, default=80, help="mel bins of the models (default: 80)")
    parser.add_argument(
        "--chunk_size", type=int, default=16, help="encoder frames, for TorchScript and sherpa-onnx (default: 16)"
    )
    parser.add_argument(
        "--num_left_chunks", type=int, default=4, help="left context, for TorchScript and sherpa-onnx (default: 4)"
    )
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    features = np.random.default_rng(0).normal(10, 3, (FRAMES, args.mel_bins)).astype(np.float32)
    found: dict[str, np.ndarray] = {}
    with torch.jit.optimized_execution(False):  # as in torch_asr_model.cc
        for path in args.files:
            for name, model in opened(path, args.chunk_size, args.num_left_chunks).items():
                found[name] = model.decode(features)
                if isinstance(model, AsrModel):
                    hypotheses = [greedy(found[name]), [3], []]
                    found[f"{name} rescoring"] = np.array(model.attention_rescoring(hypotheses, REVERSE_WEIGHT))
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
    if not args.scores.exists():
        np.savez(args.scores, **found)
        print(f"{args.scores}: {', '.join(found)}")
        return 0
    expected = np.load(args.scores)
    missing = sorted(found.keys() - set(expected.files))
    if missing:
        sys.exit(f"error: {args.scores} has no scores of {', '.join(missing)}; remove it and begin with all files")
    for name, value in found.items():
        print(f"{np.abs(value - expected[name]).max() / np.abs(expected[name]).max():.1e}  {name}")
    return 0


def opened(path: Path, chunk_size: int, num_left_chunks: int) -> dict[str, AsrModel | SherpaModel]:
    """Return the models in an exported file or folder, by name."""
    if path.is_dir():
        suffixes = [suffix for suffix in (".onnx", ".quant.onnx") if (path / f"encoder{suffix}").exists()]
        return {f"{path}/*{suffix}": OnnxAsrModel(path, suffix) for suffix in suffixes}
    if path.suffix == ".onnx":
        return {str(path): SherpaModel(path, chunk_size, num_left_chunks)}
    return {str(path): TorchAsrModel(path, chunk_size, num_left_chunks)}


if __name__ == "__main__":
    sys.exit(main())
