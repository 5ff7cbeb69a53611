"""Measure loss, error rate (greedy search) and emission delay on held-out data."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from wenet_fusion_runtime.results.result import Hypothesis, Word
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
from wenet_fusion.scoring.emission_delays import DelayPercentiles, delay_percentiles, emission_delays, emitted_words
from wenet_fusion.scoring.error_rate import ErrorCounts, align
from wenet_fusion.scoring.timestamp_errors import match_words
from wenet_fusion.scoring.transcripts import Counting
from wenet_fusion.training.progress.logger_protocol import Sample

_SAMPLES = 5  # utterances whose hypotheses are logged


class Validation(NamedTuple):
    """Loss, errors and emission delay of a model on a dataset."""

    loss: float  # mean over utterances
    errors: ErrorCounts
    rate_name: str  # WER, or CER for languages without spaces
    samples: tuple[Sample, ...] = ()  # the first utterances of the list
    delay: DelayPercentiles | None = None  # emission delay of correct words; None if no such word has a known time

    def numbers(self) -> dict[str, float]:
        """Return the numbers for the log of a run."""
        found = {"dev_loss": self.loss, "dev_wer": self.errors.rate}
        delays = self.delay._asdict() if self.delay else {}
        return found | {f"dev_emission_delay_{point}_ms": ms for point, ms in delays.items() if point != "words"}

    def text(self) -> str:
        """Return the numbers as text."""
        delay = f", emission delay {self.delay.text()} ms" if self.delay else ""
        return f"dev loss {self.loss:.3f}, dev {self.rate_name} {100 * self.errors.rate:.2f} %{delay}"


def choose_counting(dataset: SpeechDataset) -> Counting:
    """Choose to count errors in words, or in characters if the language is written without spaces."""
    spaced = any(len(utterance.text.split()) > 1 for utterance in dataset.utterances)
    return Counting("word" if spaced or dataset.tokenizer.join == "words" else "char")


@torch.inference_mode()
def validate(
    model: AsrModel,
    dataset: SpeechDataset,
    chunking: Chunking,
    max_batch_seconds: float,
    placement: Placement,
    word_times: Mapping[str, Sequence[Word]] = MappingProxyType({}),
) -> Validation:
    """Measure a model on a dataset, in eval mode and with greedy search; restore the model's mode.

    Args:
        model: a model on the device of `placement`.
        dataset: held-out data.
        chunking: chunk size and left context of the encoder.
        max_batch_seconds: audio per batch, padding included, seconds.
        placement: the model's device, and the ranks, which share the batches.
        word_times: spoken words with their times, by utterance key, to measure emission delays.
    """
    device, ranks = placement
    shown, samples = set(dataset.keys(range(min(_SAMPLES, len(dataset))))), list[Sample]()
    was_training = model.training
    model.eval()
    total, rows, errors, delays = 0.0, 0, ErrorCounts(), list[float]()
    counting = choose_counting(dataset)
    frame_seconds = dataset.frontend.frame_samples / dataset.frontend.sample_rate
    plan = epoch_batches(dataset.seconds, max_batch_seconds, max_batch_rows=1000, seed=0, epoch=0)
    for batch in iterate(dataset, ranks.share(plan), epoch=0, num_workers=0):
        encoded = model.encode(batch.samples_BN.to(device), batch.sample_lengths_B.to(device), chunking)
        losses = model.losses(encoded, batch.tokens_BU.to(device), batch.token_lengths_B.to(device))
        total += float(losses.total) * len(batch.keys)
        rows += len(batch.keys)
        log_probs = model.ctc(encoded.frames_BTD).float().cpu()
        for sample, hypothesis in _decoded(log_probs, encoded.lengths_B.tolist(), batch, dataset):
            errors += align(*map(counting.tokens, sample[1:])).counts
            samples += [sample] * (sample.key in shown)
            if spoken := word_times.get(sample.key):
                emitted = emitted_words(hypothesis, dataset.tokenizer.vocabulary, frame_seconds)
                delays += emission_delays(match_words(spoken, emitted))
    model.train(was_training)
    totals, all_rows, all_errors, all_samples, all_delays = zip(*ranks.all((total, rows, errors, samples, delays)))
    loss, delay = sum(totals) / max(sum(all_rows), 1), delay_percentiles([*itertools.chain(*all_delays)])
    first = tuple(sorted(itertools.chain(*all_samples)))
    return Validation(loss, sum(all_errors, ErrorCounts()), counting.rate_name, first, delay)


def _decoded(
    log_probs_BTV: torch.Tensor, lengths: list[int], batch: Batch, dataset: SpeechDataset
) -> Iterator[tuple[Sample, Hypothesis]]:
    """Yield each utterance of a batch as a sample, and its greedy hypothesis."""
    best, ids = log_probs_BTV.max(dim=-1, keepdim=True)
    for b, length in enumerate(lengths):
        search = GreedySearch()
        search.advance(
            FrameScores(best[b, :length].numpy(), ids[b, :length].numpy(), log_probs_BTV[b, :length, BLANK].numpy())
        )
        reference, hypothesis = batch.tokens_BU[b, : batch.token_lengths_B[b]].tolist(), search.hypotheses(1)[0]
        yield Sample(batch.keys[b], *map(dataset.tokenizer.decode, (reference, hypothesis.ids))), hypothesis
