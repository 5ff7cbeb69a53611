"""CTC emission delay of an exported model: the difference between the times of emitted words and their true times."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.results.timestamps import EmissionDelay
from wenet_fusion_runtime.search.modes import GREEDY
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.offline import transcribe_offline

from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.export.speech import Speech
from wenet_fusion.scoring.timestamp_errors import (
    MatchedWord,
    TimestampErrors,
    corrected,
    estimate_emission_delay,
    match_words,
    timestamp_errors,
)


class MeasuredDelay(NamedTuple):
    """Emission delay over the words of all chunk sizes together."""

    emission_delay: EmissionDelay
    spread_seconds: float  # largest difference between the shifts of single chunk sizes
    before: TimestampErrors  # errors of the emission times
    after: TimestampErrors  # errors of the corrected times

    def summary(self) -> dict[str, Any]:
        """Return the numbers for meta.json."""
        return {
            "words": self.before.words, "spread_seconds": self.spread_seconds,
            **{
                f"{side}_{name}": getattr(errors, side)._asdict()
                for name, errors in (("before", self.before), ("after", self.after)) for side in ("starts", "ends")
            },
        }  # fmt: skip


def measure_emission_delay(model: AcousticModel, speech: Sequence[Speech]) -> MeasuredDelay | None:
    """Measure the emission delay on the utterances that have word timestamps, at every chunk size of the file.

    Args:
        model: an exported file that does not yet correct its timestamps.
        speech: utterances; those without timestamps are skipped.

    Returns:
        The delay over correctly recognised words; None if there are none.
    """
    # All searches take a word's time from the same frame, so the fastest search is enough.
    options, speech = DecodingOptions(GREEDY), [item for item in speech if item.timestamps]
    found: dict[int, list[MatchedWord]] = {}
    for chunk in model.meta.chunk_sizes:
        for item in progress_bar(speech, len(speech), f"emission delay, chunk {chunk}", "utt", leave=False):
            segments = transcribe_offline(model, item.samples, chunk, model.meta.left(chunk), options)
            emitted = [word for segment in segments for word in segment.words]
            found.setdefault(chunk, []).extend(match_words(item.timestamps, emitted))
    pairs = [pair for own in found.values() for pair in own]
    if not pairs:
        return None
    delay = estimate_emission_delay(pairs)
    sides = zip(*(estimate_emission_delay(own) for own in found.values() if own))
    spread = max(max(shifts) - min(shifts) for shifts in sides)
    after = timestamp_errors([corrected(pair, delay) for pair in pairs])
    return MeasuredDelay(delay, round(spread, 3), timestamp_errors(pairs), after)
