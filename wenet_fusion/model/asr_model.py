"""The trainable model: front-end, encoder, CTC head and attention decoders map waveforms and transcripts to losses.

Shapes: B rows, N samples, T frames, F mel bins, U tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.consistency import consistency_loss
from wenet_fusion.model.ctc import CtcHead, at_least_float32, ctc_loss
from wenet_fusion.model.decoder import Decoder, DecoderConfig, TeacherForcing, teacher_forcing
from wenet_fusion.model.delay_penalty import delay_penalised_ctc_loss
from wenet_fusion.model.encoder import Encoder, EncoderOutput
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.frontend.cmvn import GlobalCmvn
from wenet_fusion.model.frontend.fbank import Fbank
from wenet_fusion.model.intermediate_ctc import collecting_layers, unpacked
from wenet_fusion.model.layers.activation import unknown_name
from wenet_fusion.model.layers.layer_types import LAYER_TYPES
from wenet_fusion.model.layers.subsampling import FACTOR
from wenet_fusion.model.losses import LossConfig, Losses

SOS_EOS = 2  # ids as in WeNet: <blank> 0, <unk> 1, <sos/eos> 2


@dataclass(frozen=True)
class FrontendConfig:
    """Settings of the front-end.

    >>> FrontendConfig(sample_rate=16000).frame_samples
    640
    """

    RENAMED_KEYS: ClassVar[dict[str, str]] = {"tail_frames": "right_padding_frames"}

    sample_rate: int = 16000  # Hz; audio is resampled to this rate
    num_mel_bins: int = 80  # mel filters per feature frame
    window_ms: float = 25.0  # length of a feature window, ms
    hop_ms: float = 10.0  # shift between feature windows, ms
    low_freq: float = 20.0  # lower edge of the lowest mel filter, Hz
    high_freq: float = 0.0  # upper edge of the highest mel filter, Hz; 0 or less: relative to the Nyquist frequency
    right_padding_frames: int = 4  # encoder frames of silence appended to every utterance

    @property
    def frame_samples(self) -> int:
        """Return the number of samples per encoder frame."""
        return FACTOR * int(self.sample_rate * self.hop_ms / 1000)

    @property
    def right_padding_samples(self) -> int:
        """Return the number of zero samples appended to every utterance."""
        return self.right_padding_frames * self.frame_samples

    def problems(self) -> list[str]:
        found = []
        if self.sample_rate < 1000:
            found.append(f"sample_rate: {self.sample_rate} Hz is below 1000; give it in Hz")
        if self.num_mel_bins < 7:
            found.append(f"num_mel_bins: {self.num_mel_bins} is below 7, too few to subsample")
        for name in ("window_ms", "hop_ms"):
            if 0 < getattr(self, name) < 1:
                found.append(f"{name}: {getattr(self, name)} looks like seconds; give milliseconds, such as 25 and 10")
        if not 0 < self.hop_ms <= self.window_ms:
            found.append(f"hop_ms: {self.hop_ms} must be above 0 and at most window_ms: {self.window_ms}")
        if self.right_padding_frames < 0:
            found.append(f"right_padding_frames: {self.right_padding_frames} is negative")
        return found


def build_fbank(config: FrontendConfig) -> Fbank:
    """Return the model's front-end.

    Raises:
        ValueError: the mel bins do not fit the sample rate.
    """
    return Fbank(
        config.sample_rate, config.num_mel_bins, config.window_ms, config.hop_ms, config.low_freq, config.high_freq
    )


@dataclass(frozen=True)
class RescoringConfig:
    """Default weights of the scores in rescoring; the exported file holds them. Choose them on a dev set.

    >>> RescoringConfig(ctc_weight=-1).problems()
    ['ctc_weight: -1 is negative']
    """

    ctc_weight: float = 0.5  # weight of the CTC score in rescoring
    reverse_weight: float = 0.3  # share of the right-to-left decoder in the attention score

    def problems(self) -> list[str]:
        found = [] if self.ctc_weight >= 0 else [f"ctc_weight: {self.ctc_weight} is negative"]
        return found + (
            [] if 0 <= self.reverse_weight <= 1 else [f"reverse_weight: {self.reverse_weight} is not between 0 and 1"]
        )


@dataclass(frozen=True)
class ModelConfig:
    """Settings of the model, one section per part.

    >>> ModelConfig(decoder=DecoderConfig(layers=0, reverse_layers=0)).problems()[0]
    'loss.ctc_weight: must be 1 without a decoder (decoder.layers: 0)'
    """

    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    rescoring: RescoringConfig = field(default_factory=RescoringConfig)

    def problems(self) -> list[str]:
        found = []
        if self.encoder.layer not in LAYER_TYPES:
            found.append(unknown_name("encoder.layer", self.encoder.layer, LAYER_TYPES))
        if self.decoder.layers and self.decoder.heads >= 1 and self.encoder.dim % self.decoder.heads:
            found.append(f"encoder.dim: {self.encoder.dim} is not a multiple of decoder.heads: {self.decoder.heads}")
        if self.decoder.layers and self.encoder.dim % 2:
            found.append(f"encoder.dim: {self.encoder.dim} is odd; a decoder's positions need an even number")
        if not self.decoder.layers and self.loss.ctc_weight < 1:
            found.append("loss.ctc_weight: must be 1 without a decoder (decoder.layers: 0)")
        if not self.decoder.reverse_layers and self.loss.reverse_weight > 0:
            found.append("loss.reverse_weight: must be 0 without a right-to-left decoder (decoder.reverse_layers: 0)")
        wrong = [layer for layer in self.loss.intermediate_layers if not 1 <= layer < self.encoder.layers]
        if wrong or len(set(self.loss.intermediate_layers)) < len(self.loss.intermediate_layers):
            rule = f"must be different and below encoder.layers: {self.encoder.layers}"
            found.append(f"loss.intermediate_layers: {list(self.loss.intermediate_layers)} {rule}")
        return found


class AsrModel(nn.Module):
    """The trainable model.

    Args:
        config: settings of the parts.
        vocabulary_size: V, the three special tokens included.

    >>> model = AsrModel(ModelConfig(encoder=EncoderConfig(layers=1)), vocabulary_size=10).eval()
    >>> one_second = torch.zeros(1, 16000), torch.tensor([16000])
    >>> model.encode(*one_second, Chunking(size=16, left=4)).frames_BTD.shape
    torch.Size([1, 25, 256])
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int):
        super().__init__()
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.fbank = build_fbank(config.frontend)
        self.cmvn = GlobalCmvn(config.frontend.num_mel_bins)
        self.encoder = Encoder(config.encoder, config.frontend.num_mel_bins)
        self.ctc = CtcHead(config.encoder.dim, vocabulary_size)
        self.decoder = self._build_decoder(config.decoder.layers)
        self.reverse_decoder = self._build_decoder(config.decoder.reverse_layers)
        own = config.loss.intermediate_layers if config.loss.intermediate_heads == "own" else ()
        self.intermediate_heads = nn.ModuleList(CtcHead(config.encoder.dim, vocabulary_size) for _ in own)

    def _build_decoder(self, layers: int) -> Optional[Decoder]:
        if layers == 0:
            return None
        return Decoder(self.vocabulary_size, self.config.encoder.dim, layers, self.config.decoder)

    def vocabulary_parameters(self) -> list[str]:
        """Return the names of the parameters that have one row per token of the vocabulary."""
        rows = (nn.Linear, nn.Embedding)
        named = [(name, module) for name, module in self.named_modules() if isinstance(module, rows)]
        ends = ("ctc.linear", "decoder.embedding", "decoder.out")
        return [
            f"{name}.{parameter}"
            for name, module in named
            if name.endswith(ends) or name.startswith("intermediate_heads.")
            for parameter, _ in module.named_parameters()
        ]

    def frames(self, sample_lengths_B: Tensor) -> Tensor:
        """Return the number of encoder frames of each row, rounded up."""
        return sample_lengths_B.add(self.config.frontend.frame_samples - 1) // self.config.frontend.frame_samples

    def features(self, samples_BN: Tensor, sample_lengths_B: Tensor) -> Tensor:
        """Return normalised features (B, T, F) of whole utterances, computed without autocast; T is a multiple of 4."""
        valid = torch.arange(samples_BN.size(1), device=samples_BN.device) < sample_lengths_B.unsqueeze(1)
        samples = samples_BN.masked_fill(~valid, 0.0)
        samples = F.pad(samples, (0, -samples.size(1) % self.config.frontend.frame_samples))
        with torch.autocast(samples.device.type, enabled=False):
            return self.cmvn(self.fbank(samples, self.fbank.init_state(samples.size(0))).features_BTF)

    def forward(
        self,
        samples_BN: Tensor,
        sample_lengths_B: Tensor,
        tokens_BU: Tensor,
        token_lengths_B: Tensor,
        chunking: Chunking,
        feature_mask_BTF: Optional[Tensor] = None,
        feature_sources_BT: Optional[Tensor] = None,
        consistency_weight: float = 0.0,
    ) -> Losses:
        """Return the losses of whole utterances under one chunking; arguments as in `encode` and `losses`."""
        layers = self.config.loss.intermediate_layers if self.training else ()
        with collecting_layers(self.encoder, layers) as outputs:
            encoded = self.encode(samples_BN, sample_lengths_B, chunking, feature_mask_BTF, feature_sources_BT)
        return self.losses(encoded, tokens_BU, token_lengths_B, outputs, consistency_weight)

    def encode(
        self,
        samples_BN: Tensor,
        sample_lengths_B: Tensor,
        chunking: Chunking,
        feature_mask_BTF: Optional[Tensor] = None,
        feature_sources_BT: Optional[Tensor] = None,
    ) -> EncoderOutput:
        """Return encoder frames of whole utterances.

        Args:
            samples_BN: in [-1, 1] at the model's rate.
            sample_lengths_B: valid samples of each row, right padding included.
            chunking: chunk size and left context of attention.
            feature_mask_BTF: true where SpecAugment masks a feature; drawn by the caller. With masks of 2B rows, the
                output has 2B rows: the first view of each utterance, then the second view of each.
            feature_sources_BT: index of the feature frame that replaces each frame, before masking; None: keep all.
        """
        with torch.no_grad():
            features = self.features(samples_BN, sample_lengths_B)
            views = 1 if feature_mask_BTF is None else feature_mask_BTF.size(0) // features.size(0)
            features = features.repeat(views, 1, 1)
            if feature_sources_BT is not None:
                features = features.gather(1, feature_sources_BT.unsqueeze(2).expand_as(features))
            if feature_mask_BTF is not None:
                features = features.masked_fill(feature_mask_BTF, 0.0)  # 0 is the mean of normalised features
        state = self.encoder.init_state(features.size(0), 0)
        return self.encoder(features, self.frames(sample_lengths_B).repeat(views), chunking, state)

    def losses(
        self,
        encoded: EncoderOutput,
        tokens_BU: Tensor,
        token_lengths_B: Tensor,
        layers: Sequence[Tensor] = (),
        consistency_weight: float = 0.0,
    ) -> Losses:
        """Return the losses of transcripts, given encoder frames; losses are float32 or float64 even under autocast.

        Args:
            encoded: output of `encode`, of one view or two.
            tokens_BU: transcripts without sos and eos; a transcript may be empty.
            token_lengths_B: tokens of each row.
            layers: outputs of the intermediate layers; empty: no intermediate CTC loss.
            consistency_weight: weight of CR-CTC, which needs two views.
        """
        loss, rows = self.config.loss, encoded.lengths_B.size(0)
        views = rows // tokens_BU.size(0)
        tokens_BU, token_lengths_B = tokens_BU.repeat(views, 1), token_lengths_B.repeat(views)
        log_probs = self.ctc(encoded.frames_BTD)
        aligned = encoded.lengths_B, tokens_BU, token_lengths_B
        if self.training and loss.delay_penalty:
            ctc = delay_penalised_ctc_loss(log_probs, *aligned, loss.delay_penalty) / rows
        else:
            ctc = ctc_loss(log_probs, *aligned) / rows
        attention = intermediate = consistency = ctc.new_zeros(())
        if self.decoder is not None:
            forward = teacher_forcing(tokens_BU, token_lengths_B, SOS_EOS, reverse=False)
            attention = self._decoder_loss(self.decoder, forward, encoded.frames_BTD, encoded.lengths_B)
            if self.reverse_decoder is not None and loss.reverse_weight > 0:
                backward = teacher_forcing(tokens_BU, token_lengths_B, SOS_EOS, reverse=True)
                reverse = self._decoder_loss(self.reverse_decoder, backward, encoded.frames_BTD, encoded.lengths_B)
                attention = (1 - loss.reverse_weight) * attention + loss.reverse_weight * reverse
        total_ctc = ctc
        if layers:
            heads = self.intermediate_heads or [self.ctc] * len(layers)
            outputs = [head(unpacked(rows_ND, encoded)) for head, rows_ND in zip(heads, layers)]
            intermediate = torch.stack([ctc_loss(output, *aligned) for output in outputs]).mean() / rows
            total_ctc = (1 - loss.intermediate_weight) * ctc + loss.intermediate_weight * intermediate
        if views == 2:
            consistency = consistency_loss(log_probs, encoded.lengths_B) / (rows / 2)  # per utterance
            total_ctc = total_ctc + consistency_weight * consistency
        total = loss.ctc_weight * total_ctc + (1 - loss.ctc_weight) * attention
        return Losses(total, ctc, attention, intermediate, consistency)

    def _decoder_loss(self, decoder: Decoder, forcing: TeacherForcing, memory_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        logits = at_least_float32(decoder(forcing.inputs_BU, memory_BTD, lengths_B))
        targets = forcing.targets_BU.masked_fill(~forcing.mask_BU, -100)
        total = F.cross_entropy(
            logits.flatten(0, 1),
            targets.flatten(),
            ignore_index=-100,
            reduction="sum",
            label_smoothing=self.config.loss.label_smoothing,
        )
        return total / memory_BTD.size(0)
