"""Measure loss and greedy error rate on held-out data with a given chunking."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.greedy import GreedySearch

from wenet_fusion.data.batch import Batch
from wenet_fusion.data.batching import epoch_batches
from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.data.loading import iterate
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.ctc import BLANK
from wenet_fusion.ranks import Placement
from wenet_fusion.scoring.error_rate import ErrorCounts, align
from wenet_fusion.scoring.transcripts import Counting
from wenet_fusion.training.progress.logger_protocol import Sample

_SAMPLES = 5  # utterances whose hypotheses are logged


class Validation(NamedTuple):
    """Loss and errors of a model on a dataset."""

    loss: float  # mean over utterances
    errors: ErrorCounts
    rate_name: str  # WER, or CER for languages without spaces
    samples: tuple[Sample, ...] = ()  # the first utterances of the list


def choose_counting(dataset: SpeechDataset) -> Counting:
    """Count errors in words, or in characters if the language is written without spaces."""
    spaced = any(len(utterance.text.split()) > 1 for utterance in dataset.utterances)
    return Counting("word" if spaced or dataset.tokenizer.join == "words" else "char")


@torch.inference_mode()
def validate(
    model: AsrModel, dataset: SpeechDataset, chunking: Chunking, max_batch_seconds: float, placement: Placement
) -> Validation:
    """Run the model in eval mode over a dataset, with greedy search, and restore its mode.

    Args:
        model: a model on the device of `placement`.
        dataset: held-out data.
        chunking: chunk size and left context of the encoder.
        max_batch_seconds: audio per batch, padding included, seconds.
        placement: the model's device, and the ranks, which share the batches.
    """
    device, ranks = placement
    shown, samples = set(dataset.keys(range(min(_SAMPLES, len(dataset))))), list[Sample]()
    was_training = model.training
    model.eval()
    total, rows, errors, counting = 0.0, 0, ErrorCounts(), choose_counting(dataset)
    plan = epoch_batches(dataset.seconds, max_batch_seconds, max_batch_rows=1000, seed=0, epoch=0)
    for batch in iterate(dataset, ranks.share(plan), epoch=0, num_workers=0):
        encoded = model.encode(batch.samples_BN.to(device), batch.sample_lengths_B.to(device), chunking)
        losses = model.losses(encoded, batch.tokens_BU.to(device), batch.token_lengths_B.to(device))
        total += float(losses.total) * len(batch.keys)
        rows += len(batch.keys)
        log_probs = model.ctc(encoded.frames_BTD).float().cpu()
        decoded = list(_decoded(log_probs, encoded.lengths_B.tolist(), batch, dataset))
        errors += sum((align(*map(counting.tokens, pair[1:])).counts for pair in decoded), ErrorCounts())
        samples += [sample for sample in decoded if sample.key in shown]
    model.train(was_training)
    totals, all_rows, all_errors, all_samples = zip(*ranks.all((total, rows, errors, samples)))
    loss = sum(totals) / max(sum(all_rows), 1)
    first = tuple(sorted(sample for found in all_samples for sample in found))
    return Validation(loss, sum(all_errors, ErrorCounts()), counting.rate_name, first)


def _decoded(log_probs_BTV: torch.Tensor, lengths: list[int], batch: Batch, dataset: SpeechDataset) -> Iterator[Sample]:
    """Yield each utterance of a batch with its reference and its greedy hypothesis."""
    best, ids = log_probs_BTV.max(dim=-1, keepdim=True)
    for b, length in enumerate(lengths):
        search = GreedySearch()
        search.advance(
            FrameScores(best[b, :length].numpy(), ids[b, :length].numpy(), log_probs_BTV[b, :length, BLANK].numpy())
        )
        reference = batch.tokens_BU[b, : batch.token_lengths_B[b]].tolist()
        yield Sample(batch.keys[b], *map(dataset.tokenizer.decode, (reference, search.hypotheses(1)[0].ids)))
