"""Beam search with the attention decoder alone, over whole utterances. Offline only; knows no CTC.

Shapes: B utterances, S of them still searched, N hypotheses of a beam, U tokens, T encoder frames, D width, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from wenet_fusion.model.asr_model import SOS_EOS
from wenet_fusion.model.ctc import BLANK
from wenet_fusion.model.decoder import Decoder, DecoderState


class AttentionHypothesis(NamedTuple):
    ids: tuple[int, ...]
    score: float  # log-probability, end of sentence included


class _Beams(NamedTuple):
    """Utterances that are still searched; all their hypotheses have U tokens."""

    utterance_S: Tensor  # which they are
    prefixes_SNU: Tensor  # sos, tokens
    scores_SN: Tensor  # best first
    state: DecoderState  # has seen all but the last token


@torch.inference_mode()
def attention_search(
    decoder: Decoder, encoder_out_BTD: Tensor, lengths_B: Tensor, beam_size: int = 10
) -> list[list[AttentionHypothesis]]:
    """The most probable token sequences of each utterance under the left-to-right decoder, best first.

    A log-probability only falls as a hypothesis grows, so an utterance's search ends when no open hypothesis can beat
    its best closed one. A hypothesis has at most as many tokens as the utterance has frames.

    Args:
        decoder: the left-to-right decoder.
        encoder_out_BTD: what follows an utterance's length changes nothing.
        lengths_B: frames of each; 0 gives the empty hypothesis.
        beam_size: open hypotheses kept per step, and closed ones returned.
    """
    closed = [[] if length else [AttentionHypothesis((), 0.0)] for length in lengths_B.tolist()]
    beams = _start(decoder, encoder_out_BTD, lengths_B)
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
        goes_on_S = (beams.scores_SN[:, 0] > best_closed_S) & (lengths_B[beams.utterance_S] >= tokens)
        beams = _keep(beams, goes_on_S)
    return closed


def _start(decoder: Decoder, encoder_out_BTD: Tensor, lengths_B: Tensor) -> _Beams:
    utterance_S = lengths_B.nonzero().squeeze(1)
    prefixes_SNU = utterance_S.new_full((len(utterance_S), 1, 1), SOS_EOS)
    scores_SN = encoder_out_BTD.new_zeros((len(utterance_S), 1), dtype=torch.get_default_dtype())
    state = decoder.start(encoder_out_BTD[utterance_S], lengths_B[utterance_S])
    return _Beams(utterance_S, prefixes_SNU, scores_SN, state)


def _close(closed: list[list[AttentionHypothesis]], beams: _Beams, ended_SN: Tensor, beam_size: int) -> None:
    """Adds to `closed` what may be among an utterance's best: its open hypotheses with their scores if they end here."""
    prefixes = beams.prefixes_SNU[:, :, 1:].tolist()
    for utterance, ids_NU, scores_N in zip(beams.utterance_S.tolist(), prefixes, ended_SN.tolist()):
        found = closed[utterance] + [AttentionHypothesis(tuple(ids), score) for ids, score in zip(ids_NU, scores_N)]
        closed[utterance] = sorted(found, key=lambda hypothesis: -hypothesis.score)[:beam_size]


def _grow(beams: _Beams, total_SNV: Tensor, beam_size: int) -> _Beams:
    """Each utterance's best continuations by one token. All begin with one hypothesis, so all beams are equally wide."""
    searched, rows, units = total_SNV.shape
    scores_SN, flat_SN = total_SNV.flatten(1).topk(min(beam_size, rows * (units - 2)))
    row_SN, token_SN = flat_SN.div(units, rounding_mode="floor"), flat_SN % units
    index_S = torch.arange(searched, device=flat_SN.device).unsqueeze(1)
    prefixes_SNU = torch.cat([beams.prefixes_SNU[index_S, row_SN], token_SN.unsqueeze(2)], dim=2)
    state = beams.state.follow((index_S * rows + row_SN).flatten())
    return _Beams(beams.utterance_S, prefixes_SNU, scores_SN, state)


def _keep(beams: _Beams, goes_on_S: Tensor) -> _Beams:
    """The beams of the utterances whose search goes on."""
    if bool(goes_on_S.all()):
        return beams
    rows_SN = torch.arange(beams.scores_SN.numel(), device=goes_on_S.device).view_as(beams.scores_SN)
    state = beams.state.keep(goes_on_S.nonzero().squeeze(1)).follow(rows_SN[goes_on_S].flatten())
    return _Beams(beams.utterance_S[goes_on_S], beams.prefixes_SNU[goes_on_S], beams.scores_SN[goes_on_S], state)
