"""Files for sherpa-onnx, which streams them as a WeNet CTC model: one ONNX graph and tokens.txt."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from wenet_fusion_runtime.files import write_text
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.search.modes import GREEDY
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions

from wenet_fusion.export.runtime_emulator import emulated_pair
from wenet_fusion.export.speech import Speech
from wenet_fusion.export.target import Findings
from wenet_fusion.export.targets.onnx_graph import operators, quantise_dynamic
from wenet_fusion.export.targets.wenet_graphs import EncoderWithCtc, MaskedEncoder, write_encoder
from wenet_fusion.export.targets.wenet_onnx import FeatureTarget, chunking_remarks, mel_remarks, unit_table
from wenet_fusion.export.verification import Pair
from wenet_fusion.model.chunking import FULL_CONTEXT, chunking_label

INPUTS = ("x", "offset", "required_cache_size", "attn_cache", "conv_cache", "attn_mask")
OUTPUTS = ("log_probs", "next_att_cache", "next_conv_cache")
TOKENS = "tokens.txt"
HIGH_FREQ = -400.0  # default upper edge of sherpa-onnx's mel filters, Hz relative to the Nyquist frequency


class SherpaOnnx(FeatureTarget):
    """A graph for sherpa-onnx's streaming recogniser, without attention decoders; tokens.txt is written beside it.

    sherpa-onnx gets the chunking on its command line; the graph itself also works with other chunk sizes.

    >>> SherpaOnnx.name, SherpaOnnx.decoding.mode
    ('sherpa-onnx', 'ctc_greedy_search')
    """

    name, purpose = "sherpa-onnx", "for sherpa-onnx"
    decoding = DecodingOptions(mode=GREEDY)

    def check(self) -> None:
        """Refuse what sherpa-onnx cannot run, and folders with another model's vocabulary."""
        path, chunking = self.destination, self.chunking
        if path.is_dir():
            raise ValueError(f"{path} is a directory: name a file in it")
        if path.name == TOKENS:
            raise ValueError(f"{path} is the name of the vocabulary that is written beside the model: give another one")
        self.check_vocabulary(self._tokens())
        super().check()
        if chunking.left < 1 or chunking.size >= FULL_CONTEXT.size:
            raise ValueError(
                f"{path} is not written: sherpa-onnx needs a chunk size and a left context of at least 1 chunk, "
                f"such as {self.trained.config.training.chunking.served()[-1].size}/4, not {chunking_label(chunking)}"
            )

    def build(self, speech: Sequence[np.ndarray]) -> None:
        """Fold the model and describe it with the metadata that sherpa-onnx reads."""
        super().build(speech)
        self.described |= {"model_type": "wenet_ctc", "version": "1"}
        self.described |= {"model_author": "wenet_fusion", "comment": "streaming"}

    def write(self, path: Path, precision: str, found: Findings | None) -> None:
        """Write the graph in float32; for int8-dynamic, quantise the float32 graph at `path` in place."""
        if precision == "float32":
            write_encoder(EncoderWithCtc(MaskedEncoder(self.model)), INPUTS, OUTPUTS, (1,), path, self.described)
            return
        with tempfile.TemporaryDirectory() as folder:
            quantised = Path(folder) / "model.onnx"
            quantise_dynamic(path, quantised)
            path.write_bytes(quantised.read_bytes())

    def load(self, path: Path, precision: str, speech: Sequence[Speech]) -> Pair:
        """Open the graph in an emulator of sherpa-onnx."""
        return emulated_pair(self.trained, self.chunking, [path], speech)

    def operators(self, path: Path, precision: str, exported: AcousticModel) -> Counter[str]:
        """Count the operators of the graph."""
        return operators(path)

    def finish(self, path: Path) -> None:
        """Write tokens.txt before the model is moved to its place: a model without tokens.txt is useless."""
        write_text(self._tokens(), unit_table(self.trained.tokenizer))

    def files(self) -> tuple[Path, ...]:
        """Return the graph and tokens.txt."""
        return self.destination, self._tokens()

    def command(self) -> str:
        """Return the command that starts sherpa-onnx, which reads neither chunking nor front-end from the file."""
        frontend = self.trained.config.model.frontend
        return (
            f"sherpa-onnx --wenet-ctc-model={self.destination} --tokens={self._tokens()} "
            f"--wenet-ctc-chunk-size={self.chunking.size} --wenet-ctc-num-left-chunks={self.chunking.left} "
            f"--sample-rate={frontend.sample_rate} --feat-dim={frontend.num_mel_bins} "
            f"--low-freq={frontend.low_freq:g} --high-freq={frontend.high_freq:g} AUDIO.wav"
        )

    def remarks(self) -> list[str]:
        """Return remarks on differences of mel filters, and on an untrained chunking."""
        remedy = (
            "; give the program sherpa-onnx the flags below (from_wenet_ctc of its Python package has no such "
            f"arguments), or train with model.frontend.high_freq: {HIGH_FREQ:g}"
        )
        mel = mel_remarks(self.trained, "sherpa-onnx by default", HIGH_FREQ, remedy)
        return mel + chunking_remarks(self.trained, self.chunking)

    def _tokens(self) -> Path:
        return self.destination.with_name(TOKENS)
