"""Files for WeNet's onnxruntime runtime: encoder.onnx, ctc.onnx, decoder.onnx and units.txt."""

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from wenet_fusion_runtime.files import replacing_set, write_text
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.results.vocabulary import RESERVED, WORD_START

from wenet_fusion.export.runtime_emulator import emulated_pair
from wenet_fusion.export.speech import Speech
from wenet_fusion.export.target import Findings, Target
from wenet_fusion.export.targets.onnx_graph import ONNX_COSTLY_ACTIVATIONS, ONNX_NORMS, operators, quantise_dynamic
from wenet_fusion.export.targets.wenet_graphs import (
    GrowingEncoder,
    MaskedEncoder,
    describe,
    wenet_model,
    write_ctc,
    write_decoder,
    write_encoder,
)
from wenet_fusion.export.verification import Pair
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking, chunking_label
from wenet_fusion.text.tokenizer import Tokenizer
from wenet_fusion.text.vocabulary_file import format_vocabulary
from wenet_fusion.trained_model import TrainedModel

GRAPHS = ("encoder", "ctc", "decoder")
SUFFIXES = {"float32": ".onnx", "int8-dynamic": ".quant.onnx"}
INPUTS = ("chunk", "offset", "required_cache_size", "att_cache", "cnn_cache", "att_mask")
OUTPUTS = ("output", "r_att_cache", "r_cnn_cache")
UNITS = "units.txt"
LOW_FREQ = 20.0  # Hz; lower edge of the mel filters in WeNet's runtime and sherpa-onnx
SMALLEST_CHUNK = 2  # encoder frames; WeNet's runtime skips windows of at most 4 feature frames


class FeatureTarget(Target):
    """A target for a runtime that computes Kaldi's features itself and passes WeNet's two caches.

    >>> FeatureTarget.precisions
    ('float32', 'int8-dynamic')
    """

    precisions = tuple(SUFFIXES)
    norms, costly_activations = ONNX_NORMS, ONNX_COSTLY_ACTIVATIONS
    one_chunking, holds_findings, batches = True, False, False

    def check(self) -> None:
        """Refuse features that the runtimes cannot compute."""
        frontend = self.trained.config.model.frontend
        if (frontend.window_ms, frontend.hop_ms) != (25.0, 10.0):
            raise ValueError(
                f"{self.destination} is not written: WeNet's and sherpa-onnx's runtimes compute features over 25 ms "
                f"every 10 ms, {self.trained.path} was trained with window_ms: {frontend.window_ms:g} and hop_ms: "
                f"{frontend.hop_ms:g}"
            )

    def build(self, speech: Sequence[np.ndarray]) -> None:
        """Fold the model and describe it; `write` traces the graphs."""
        self.model = wenet_model(self.trained)
        self.described = describe(self.model, self.trained, self.chunking)

    def stages(self) -> tuple[str, ...]:
        """Return float32 and, if requested, int8-dynamic, which is quantised from the float32 graphs."""
        return ("float32",) if self.precision == "float32" else ("float32", self.precision)

    def metadata(self, found: Findings | None) -> dict[str, Any]:
        """Return the metadata of the encoder's graph."""
        return self.described

    def check_vocabulary(self, path: Path) -> None:
        """Raise ValueError if `path` holds another model's vocabulary."""
        if path.exists() and path.read_text(encoding="utf-8") != unit_table(self.trained.tokenizer):
            raise ValueError(f"{path} already exists with a different vocabulary: export into another folder")


class WenetOnnx(FeatureTarget):
    """A folder for WeNet's `decoder_main --onnx_dir`, for one chunking.

    A negative left context keeps all frames. Full context becomes WeNet's chunk size -1, which waits for the end of the
    audio. "int8-dynamic" writes encoder.quant.onnx and so on beside the float32 files.

    >>> WenetOnnx.name, WenetOnnx.one_chunking
    ('wenet-onnx', True)
    """

    name, purpose = "wenet-onnx", "for WeNet's onnxruntime runtime"

    def check(self) -> None:
        """Refuse what the runtime cannot run, and folders with another model's vocabulary."""
        path = self.destination
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file: --format {self.name} writes a folder")
        self.check_vocabulary(path / UNITS)
        super().check()
        if self.trained.model.decoder is None:
            raise ValueError(
                f"{path} is not written: WeNet's onnxruntime runtime needs decoder.onnx, and {self.trained.path} has "
                "no attention decoder; export TorchScript for WeNet's libtorch runtime, or for sherpa-onnx"
            )
        if self.chunking.size < SMALLEST_CHUNK:
            raise ValueError(
                f"{path} is not written: WeNet's runtime skips chunks of {self.chunking.size} frame; "
                f"use a chunk size of {SMALLEST_CHUNK} or more"
            )

    def replacing(self) -> AbstractContextManager[Path]:
        """Return a context with a temporary folder, whose files replace the earlier set; see `replacing_set`."""
        everything = [f"{name}{suffix}" for suffix in SUFFIXES.values() for name in GRAPHS]
        return replacing_set(self.destination, [*everything, UNITS])

    def build(self, speech: Sequence[np.ndarray]) -> None:
        """Fold the model and describe it."""
        super().build(speech)
        self.described["output_dir"] = self.destination.name

    def write(self, path: Path, precision: str, found: Findings | None) -> None:
        """Write the three graphs in float32; for int8-dynamic, quantise the float32 graphs in `path`."""
        exact = self._graphs(path, "float32")
        if precision != "float32":
            for source, target in zip(exact, self._graphs(path, precision)):
                quantise_dynamic(source, target)
            return
        encoder, ctc, decoder = exact
        # WeNet's runtime passes a mask only if the left context is limited and not zero.
        if self.chunking.left > 0:
            write_encoder(MaskedEncoder(self.model), INPUTS, OUTPUTS, (), encoder, self.described)
        else:
            write_encoder(GrowingEncoder(self.model), INPUTS[:5], OUTPUTS, (), encoder, self.described)
        write_ctc(self.model, ctc, self.described)
        write_decoder(self.model, decoder, self.described)

    def load(self, path: Path, precision: str, speech: Sequence[Speech]) -> Pair:
        """Open the graphs in an emulator of the C++ runtime."""
        return emulated_pair(self.trained, self.chunking, self._graphs(path, precision), speech)

    def operators(self, path: Path, precision: str, exported: AcousticModel) -> Counter[str]:
        """Count the operators of the encoder."""
        return operators(self._graphs(path, precision)[0])

    def finish(self, path: Path) -> None:
        """Write units.txt."""
        write_text(path / UNITS, unit_table(self.trained.tokenizer))

    def files(self) -> tuple[Path, ...]:
        """Return the graphs and units.txt."""
        graphs = [path for precision in self.stages() for path in self._graphs(self.destination, precision)]
        return (*graphs, self.destination / UNITS)

    def command(self) -> str:
        """Return the command that starts the runtime with the model's settings; the runtime's defaults differ."""
        frontend, rescoring = self.trained.config.model.frontend, self.trained.config.model.rescoring
        reverse_weight = rescoring.reverse_weight if self.trained.model.reverse_decoder is not None else 0.0
        return (
            f"decoder_main --onnx_dir {self.destination} --unit_path {self.destination / UNITS} "
            f"--chunk_size {self.described['chunk_size']} --num_left_chunks {self.described['left_chunks']} "
            f"--num_bins {frontend.num_mel_bins} --sample_rate {frontend.sample_rate} "
            f"--ctc_weight {rescoring.ctc_weight:g} --reverse_weight {reverse_weight:g} --wav_path AUDIO.wav"
        )

    def remarks(self) -> list[str]:
        """Return remarks on differences of mel filters, on an untrained chunking, and on how to run int8."""
        found = mel_remarks(self.trained, "WeNet's runtime", 0.0, "") + chunking_remarks(self.trained, self.chunking)
        if self.precision != "float32":
            names = [", ".join(path.name for path in self._graphs(Path(), precision)) for precision in self.stages()]
            found.append(
                f"WeNet opens fixed names, so the command below runs the float32 files; to run int8, copy {names[1]} "
                f"to a folder of their own as {names[0]}"
            )
        return found

    def _graphs(self, folder: Path, precision: str) -> list[Path]:
        return [folder / f"{name}{SUFFIXES[precision]}" for name in GRAPHS]


def unit_table(tokenizer: Tokenizer) -> str:
    """Return the text of units.txt for runtimes that join tokens without spaces and print U+2581 as a space."""
    tokens = tokenizer.vocabulary.tokens
    if tokenizer.join == "words":
        words = (WORD_START + token for token in tokens[len(RESERVED) :])
        tokens = (*tokens[: len(RESERVED)], *words)
    return format_vocabulary(tokens)


def mel_remarks(trained: TrainedModel, runtime: str, high_freq: float, remedy: str) -> list[str]:
    """Return a remark if a runtime's mel filters cover other frequencies than the model's.

    Args:
        trained: the model.
        runtime: name of the runtime, at the beginning of the remark.
        high_freq: upper edge of the runtime's filters, in Hz relative to the Nyquist frequency; 0 or negative.
        remedy: end of the remark.
    """
    frontend = trained.config.model.frontend
    nyquist = frontend.sample_rate / 2
    model_high = frontend.high_freq if frontend.high_freq > 0 else nyquist + frontend.high_freq
    if (frontend.low_freq, model_high) == (LOW_FREQ, nyquist + high_freq):
        return []
    return [
        f"{runtime} computes mel filters over {LOW_FREQ:g}-{nyquist + high_freq:g} Hz, the model was trained with "
        f"{frontend.low_freq:g}-{model_high:g} Hz: expect more errors{remedy}"
    ]


def chunking_remarks(trained: TrainedModel, chunking: Chunking) -> list[str]:
    """Return a remark if the model was not trained with this chunking."""
    known = trained.config.training.chunking.trained()
    if chunking in known or chunking.size >= FULL_CONTEXT.size:
        return []
    label = chunking_label(chunking) if chunking.left >= 0 else f"{chunking.size} frames and all frames before"
    return [f"the model was not trained for {label}, only for {', '.join(map(chunking_label, known))}"]
