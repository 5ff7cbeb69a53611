"""The candidates of the encoder benchmark: the Conformer, FusionFormer, FusionFormer's linear layers alone, and the
encoders between the Conformer and FusionFormer.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

from parts.encoder_variants import (
    EncoderVariant,
    dynamic_int8,
    linear_layers_variant,
    onnx_variant,
    quantise,
    static_conformer,
    static_onnx_encoder,
    torch_variant,
    tuned_encoder,
    write_graph,
)
from parts.random_models import conformer, random_model, separate_projections

from wenet_fusion.export.kernels.onnx_int8 import DOMAIN
from wenet_fusion.export.kernels.torch_kernels import Precision
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.encoder import Encoder
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.trained_model import TrainedModel, fused_model

CONFORMER, OURS, LINEAR, CHANGES = "LayerNorm Conformer", "FusionFormer", "its linear layers alone", "change"
FLOAT32, FLOAT16, INT8, INT8_DYNAMIC = (f"TorchScript {precision}" for precision in get_args(Precision))
ONNX_FLOAT32, ONNX_INT8 = "onnxruntime float32", "onnxruntime int8"
ONNX_INT8_DYNAMIC, ONNX_UINT8 = "onnxruntime int8-dynamic", "onnxruntime uint8-dynamic"
ONNX_INT8_ALL = f"{ONNX_INT8} with convolutions"
VOCABULARY = 100  # any size: the encoder does not depend on it


class Candidate(NamedTuple):
    """A variant of a model, to be timed."""

    model: str  # CONFORMER, OURS, LINEAR or CHANGES
    variant: EncoderVariant

    @property
    def name(self) -> str:
        return f"{self.model}: {self.variant.name}"


class Sizes(NamedTuple):
    encoder: EncoderConfig
    chunkings: tuple[Chunking, ...]  # largest chunk first


class Builder(NamedTuple):
    """Build candidates with random weights; ONNX graphs are written to `folder`."""

    sizes: Sizes
    seed: int
    folder: Path

    def model(self, config: EncoderConfig) -> TrainedModel:
        return random_model(config, self.sizes.chunkings, VOCABULARY, self.seed)

    def plain(self, config: EncoderConfig, separate: bool = False) -> Encoder:
        """Return an encoder in float32, norms folded; `separate` splits the product for queries, keys and values."""
        encoder = fused_model(self.model(config)).encoder
        return separate_projections(encoder) if separate else encoder

    def conformer(self) -> list[Candidate]:
        """Build the Conformer as WeNet exports it (TorchScript that is not frozen, and onnxruntime), and in int8 with
        constant scales, which WeNet's exports lack.
        """
        encoder = self.plain(conformer(self.sizes.encoder), separate=True)
        variants = [
            torch_variant(FLOAT32, "float", encoder, frozen=False),
            torch_variant(INT8_DYNAMIC, "int8", dynamic_int8(encoder), frozen=False),
            *self._onnx(encoder, "conformer", ONNX_INT8_DYNAMIC, ONNX_UINT8),
        ]
        for name, convolutions in ((ONNX_INT8, False), (ONNX_INT8_ALL, True)):
            static = self.folder / f"conformer.static.{convolutions}.onnx"
            model = static_conformer(self.model(conformer(self.sizes.encoder)), self.seed, convolutions)
            write_graph(model.encoder, static, [DOMAIN])
            variants.append(onnx_variant(name, "int8", static))
        return [Candidate(CONFORMER, variant) for variant in variants]

    def ours(self) -> list[Candidate]:
        """Build FusionFormer as our export writes it, in every precision, and its linear layers alone."""
        model = self.model(self.sizes.encoder)
        plain = fused_model(model).encoder
        found = [Candidate(OURS, variant) for variant in self._onnx(plain, "ours", ONNX_INT8_DYNAMIC)]
        static = self.folder / "ours.static.onnx"
        write_graph(static_onnx_encoder(model, self.seed), static, [DOMAIN])
        found.append(Candidate(OURS, onnx_variant(ONNX_INT8, "int8", static)))
        for name, precision in zip((FLOAT32, FLOAT16, INT8, INT8_DYNAMIC), get_args(Precision)):
            kind, frozen = "int8" if precision.startswith("int8") else "float", precision != "float32"
            encoder = tuned_encoder(model, precision, self.seed)
            found.append(Candidate(OURS, torch_variant(name, kind, encoder, frozen)))
            found.append(Candidate(LINEAR, linear_layers_variant(name, kind, encoder, plain, frozen)))
        return found

    def changes(self) -> list[Candidate]:
        """Build the encoder after each change; it includes all earlier changes."""
        found = []
        for index, change in enumerate(changes(self.sizes.encoder)):
            encoder = self.plain(change.config, change.separate)
            found.append(Candidate(CHANGES, torch_variant(change_name(index, FLOAT32), "float", encoder, frozen=False)))
            quantised = dynamic_int8(encoder)
            found.append(
                Candidate(CHANGES, torch_variant(change_name(index, INT8_DYNAMIC), "int8", quantised, frozen=False))
            )
        return found

    def _onnx(self, encoder: Encoder, stem: str, *quantised: str) -> list[EncoderVariant]:
        exact = self.folder / f"{stem}.onnx"
        write_graph(encoder, exact)
        found = [onnx_variant(ONNX_FLOAT32, "float", exact)]
        for name, weights in zip(quantised, ("int8", "uint8")):
            found.append(onnx_variant(name, "int8", quantise(exact, exact.with_suffix(f".{weights}.onnx"), weights)))
        return found


class Change(NamedTuple):
    """One change on the way from the Conformer to FusionFormer."""

    what: str  # description
    config: EncoderConfig  # after the change
    separate: bool  # whether queries, keys and values have separate matrix products


def changes(ours: EncoderConfig) -> list[Change]:
    """Return the changes in order, beginning with the Conformer. Each includes all earlier changes."""
    start = conformer(ours)
    folded = replace(start, norm="fusion")
    relu = replace(folded, activation="relu", conv_gate="none")
    bias = replace(relu, positions="bias")
    return [
        Change("LayerNorm Conformer", start, True),
        Change("norms that fold into other layers", folded, True),
        Change("ReLU instead of Swish and GLU", relu, True),
        Change("position bias instead of relative positions", bias, True),
        Change("one product for queries, keys and values", bias, False),
        Change(
            f"{ours.subsampling_channels} instead of {start.subsampling_channels} subsampling channels", ours, False
        ),
    ]


def change_name(index: int, variant: str) -> str:
    return f"{index} {variant}"
