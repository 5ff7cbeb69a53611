"""Beam search with the attention decoder alone, over whole utterances.

Shapes: B utterances, S utterances still searched, N hypotheses of a beam, U tokens, T encoder frames, D width,
V vocabulary.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.search.frame_scores import FrameScores

from wenet_fusion.model.asr_model import SOS_EOS
from wenet_fusion.model.ctc import BLANK
from wenet_fusion.model.decoder import Decoder, DecoderState


class AttentionHypothesis(NamedTuple):
    """A token sequence and its score."""

    ids: tuple[int, ...]
    score: float  # log-probability in nats, end of sentence included


class _Beams(NamedTuple):
    """Utterances that are still searched; all their hypotheses have U tokens."""

    utterance_S: Tensor  # indices of the utterances
    prefixes_SNU: Tensor  # sos, tokens
    scores_SN: Tensor  # best first
    state: DecoderState  # after all tokens but the last one


class AttentionBeamSearch:
    """Attention beam search of one segment, with the runtime's interface `Search`.

    The decoder reads all frames so far and gives no alignment, so every token that is not yet final counts as emitted
    in the last frame. All tokens have the same confidence: the geometric mean of the probabilities of all tokens and of
    the end of the sentence.

    Args:
        decoder: the left-to-right decoder, in eval mode.
        beam_size: number of hypotheses to keep at each token.
        start_frame: index of the first frame, counted from the start of the stream.

    >>> from wenet_fusion.model.decoder import DecoderConfig
    >>> config = DecoderConfig(layers=1, reverse_layers=0, heads=2, feed_forward=8)
    >>> decoder = Decoder(vocabulary_size=5, dim=4, layers=1, config=config).eval()
    >>> search = AttentionBeamSearch(decoder, beam_size=3)
    >>> len(search.hypotheses(2)[0].ids), search.stable_length()  # no frames, no tokens
    (0, 0)
    """

    def __init__(self, decoder: Decoder, beam_size: int = 10, start_frame: int = 0) -> None:
        self._decoder, self._beam_size = decoder, beam_size
        self._frame = start_frame
        self._blocks: list[Tensor] = []
        self._final: tuple[int, ...] = ()  # the stable prefix
        self._final_frames: tuple[int, ...] = ()
        self._found: list[AttentionHypothesis] | None = [AttentionHypothesis((), 0.0)]  # None: outdated by new frames

    def advance(self, scores: FrameScores, encoder_out: np.ndarray) -> None:
        """Add T more frames, see `Search`. The search itself runs when hypotheses are requested."""
        if scores.frames:
            self._frame += scores.frames
            self._blocks.append(torch.from_numpy(encoder_out))
            self._found = None

    def commit(self, frame: int) -> None:
        """Make the whole best hypothesis final if all frames read so far lie before `frame`; otherwise do nothing."""
        if frame >= self._frame:
            best = self.hypotheses(1)[0]
            self._final, self._final_frames = best.ids, best.frames

    def stable_length(self) -> int:
        """Return the number of final tokens; later frames may change all others."""
        return len(self._final)

    def hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """Return the `count` best token sequences for the frames so far, best first."""
        if self._found is None:
            memory, lengths = (
                torch.cat(self._blocks, dim=1),
                torch.tensor([sum(block.size(1) for block in self._blocks)]),
            )
            self._found = attention_search(self._decoder, memory, lengths, self._beam_size, self._final)[0]
        return [self._hypothesis(*found) for found in self._found[:count]]

    def final_hypotheses(self, count: int = 1) -> list[Hypothesis]:
        """Return the same as `hypotheses`: the end of the sentence is part of every score."""
        return self.hypotheses(count)

    def _hypothesis(self, ids: tuple[int, ...], score: float) -> Hypothesis:
        frames = self._final_frames + (self._frame - 1,) * (len(ids) - len(self._final))
        confidences = (math.exp(score / (len(ids) + 1)),) * len(ids)
        return Hypothesis(ids, 0.0, score, frames, confidences, attention_score=score)


@torch.inference_mode()
def attention_search(
    decoder: Decoder, encoder_out_BTD: Tensor, lengths_B: Tensor, beam_size: int = 10, prefix: Sequence[int] = ()
) -> list[list[AttentionHypothesis]]:
    """Return the most probable token sequences of each utterance by the left-to-right decoder, best first.

    A hypothesis is open until the end of the sentence closes it. Each token lowers its log-probability, so the search
    ends when no open hypothesis is better than the best closed one. A hypothesis has at most one token per frame.

    Args:
        decoder: the left-to-right decoder, in eval mode.
        encoder_out_BTD: encoder frames; frames after an utterance's end are ignored.
        lengths_B: frames of each utterance; 0 gives the empty hypothesis.
        beam_size: number of open hypotheses to keep at each token, and of closed ones to return.
        prefix: tokens with which every hypothesis begins.
    """
    closed: list[list[AttentionHypothesis]] = [
        [] if length else [AttentionHypothesis((), 0.0)] for length in lengths_B.tolist()
    ]
    beams = _start(decoder, encoder_out_BTD, lengths_B, prefix)
    while beams.utterance_S.numel():
        logits_SNV, state = decoder.step(beams.prefixes_SNU[:, :, -1], beams.state)
        total_SNV = beams.scores_SN.unsqueeze(2) + logits_SNV.log_softmax(-1).to(beams.scores_SN.dtype)
        _close(closed, beams, total_SNV[:, :, SOS_EOS], beam_size)
        total_SNV[:, :, [BLANK, SOS_EOS]] = -torch.inf
        beams = _grow(beams._replace(state=state), total_SNV, beam_size)
        best_closed_S = beams.scores_SN.new_tensor(
            [closed[utterance][0].score for utterance in beams.utterance_S.tolist()]
        )
        tokens = beams.prefixes_SNU.size(2) - 1
        continues_S = (beams.scores_SN[:, 0] > best_closed_S) & (lengths_B[beams.utterance_S] >= tokens)
        beams = _keep(beams, continues_S)
    return closed


def _start(decoder: Decoder, encoder_out_BTD: Tensor, lengths_B: Tensor, prefix: Sequence[int]) -> _Beams:
    """Return the beam of each utterance that has frames: one hypothesis, the prefix."""
    utterance_S = lengths_B.nonzero().squeeze(1)
    prefixes_SNU = utterance_S.new_full((len(utterance_S), 1, 1), SOS_EOS)
    scores_SN = encoder_out_BTD.new_zeros((len(utterance_S), 1), dtype=torch.get_default_dtype())
    state = decoder.start(encoder_out_BTD[utterance_S], lengths_B[utterance_S])
    for token in prefix:
        logits_SNV, state = decoder.step(prefixes_SNU[:, :, -1], state)
        scores_SN = scores_SN + logits_SNV.log_softmax(-1)[:, :, token]
        prefixes_SNU = torch.cat([prefixes_SNU, torch.full_like(prefixes_SNU[:, :, :1], token)], dim=2)
    return _Beams(utterance_S, prefixes_SNU, scores_SN, state)


def _close(closed: list[list[AttentionHypothesis]], beams: _Beams, ended_SN: Tensor, beam_size: int) -> None:
    """Add the open hypotheses, as if they ended here, to the closed ones; keep the best `beam_size` per utterance."""
    prefixes = beams.prefixes_SNU[:, :, 1:].tolist()
    for utterance, ids_NU, scores_N in zip(beams.utterance_S.tolist(), prefixes, ended_SN.tolist()):
        found = closed[utterance] + [AttentionHypothesis(tuple(ids), score) for ids, score in zip(ids_NU, scores_N)]
        closed[utterance] = sorted(found, key=lambda hypothesis: -hypothesis.score)[:beam_size]


def _grow(beams: _Beams, total_SNV: Tensor, beam_size: int) -> _Beams:
    """Return the best continuations by one token. All beams have the same width: each began with one hypothesis."""
    searched, rows, tokens = total_SNV.shape
    scores_SN, flat_SN = total_SNV.flatten(1).topk(min(beam_size, rows * (tokens - 2)))
    row_SN, token_SN = flat_SN.div(tokens, rounding_mode="floor"), flat_SN % tokens
    index_S = torch.arange(searched, device=flat_SN.device).unsqueeze(1)
    prefixes_SNU = torch.cat([beams.prefixes_SNU[index_S, row_SN], token_SN.unsqueeze(2)], dim=2)
    state = beams.state.follow((index_S * rows + row_SN).flatten())
    return _Beams(beams.utterance_S, prefixes_SNU, scores_SN, state)


def _keep(beams: _Beams, continues_S: Tensor) -> _Beams:
    """Return the beams of the utterances whose search continues."""
    if bool(continues_S.all()):
        return beams
    rows_SN = torch.arange(beams.scores_SN.numel(), device=continues_S.device).view_as(beams.scores_SN)
    state = beams.state.keep(continues_S.nonzero().squeeze(1)).follow(rows_SN[continues_S].flatten())
    return _Beams(beams.utterance_S[continues_S], beams.prefixes_SNU[continues_S], beams.scores_SN[continues_S], state)
