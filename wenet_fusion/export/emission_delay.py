"""How far the words that an exported file emits lie from the words that were spoken. Knows no file."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.results.timestamps import EmissionDelay
from wenet_fusion_runtime.search.modes import GREEDY
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.offline import transcribe_offline

from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.evaluation.timestamps.timestamp_errors import (
    DatedWord,
    TimeErrors,
    dated_words,
    estimate_emission_delay,
    moved,
    time_errors,
)
from wenet_fusion.export.speech import Speech


class MeasuredDelay(NamedTuple):
    """Over the words of all served chunk sizes together."""

    emission_delay: EmissionDelay
    spread_seconds: float  # by which the shifts that each chunk size alone would have differ
    before: TimeErrors
    after: TimeErrors

    def summary(self) -> dict[str, Any]:
        return {
            "words": self.before.words, "spread_seconds": self.spread_seconds,
            **{
                f"{side}_{name}": getattr(errors, side)._asdict()
                for name, errors in (("before", self.before), ("after", self.after)) for side in ("starts", "ends")
            },
        }  # fmt: skip


def measure_emission_delay(model: AcousticModel, speech: Sequence[Speech]) -> MeasuredDelay | None:
    """Decodes the utterances whose words are dated at every served chunk size; None if no such word is recognised rightly.

    Args:
        model: an exported file whose own shifts are zero.
    """
    # Searches and rescoring date a word by the same frame, so the fastest will do.
    options, speech = DecodingOptions(GREEDY), [item for item in speech if item.spoken]
    found: dict[int, list[DatedWord]] = {}
    for chunk in model.meta.chunk_sizes:
        for item in progress_bar(speech, len(speech), f"word times, chunk {chunk}", "utt", leave=False):
            segments = transcribe_offline(model, item.samples, chunk, model.meta.left(chunk), options)
            heard = [word for segment in segments for word in segment.words]
            found.setdefault(chunk, []).extend(dated_words(item.spoken, heard))
    pairs = [pair for own in found.values() for pair in own]
    if not pairs:
        return None
    delay = estimate_emission_delay(pairs)
    sides = zip(*(estimate_emission_delay(own) for own in found.values() if own))
    spread = max(max(shifts) - min(shifts) for shifts in sides)
    after = time_errors([moved(pair, delay) for pair in pairs])
    return MeasuredDelay(delay, round(spread, 3), time_errors(pairs), after)
