"""Settings of an evaluation: decoding modes, chunkings and variants of the search."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wenet_fusion_runtime.search.modes import MODES, PREFIX_BEAM, RESCORING, SEARCH_MODES
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions

from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.scoring.transcripts import Counting

ATTENTION = "attention"
ALL_MODES = (*(mode for mode in MODES if mode != RESCORING), ATTENTION, RESCORING)  # in their default order
PLAIN = "plain"
# Searches on which hot words, language models, grammars and a length penalty have no effect.
_PLAIN_SEARCHES = {ATTENTION, *(mode for mode in MODES if not SEARCH_MODES[mode].has_alternatives)}


class Variant(NamedTuple):
    """A named setting of the search, e.g. with hot words."""

    name: str
    decoding: DecodingOptions  # its `mode` is ignored: the evaluation's modes replace it
    sources: str = ""  # files that the variant reads, with a digest of their contents


class Search(NamedTuple):
    """A decoding mode with a variant of the search."""

    mode: str
    variant: Variant


@dataclass(frozen=True)
class EvaluationOptions:
    """Settings of an evaluation, which the constructor checks.

    Raises:
        ValueError: a setting is unknown, missing or given twice, or a variant has no effect in any mode.

    >>> options = EvaluationOptions(("ctc_greedy_search", "attention"), (Chunking(16, 4), Chunking(8, 8)))
    >>> [search.mode for search in options.searches]
    ['ctc_greedy_search', 'attention']
    """

    modes: tuple[str, ...] = ALL_MODES  # search modes; "attention" is the attention decoder alone
    chunkings: tuple[Chunking, ...] = ()  # at least one
    # Settings of the search, each with a name. Attention search uses the beam size of the first variant.
    variants: tuple[Variant, ...] = (Variant(PLAIN, DecodingOptions()),)
    counting: Counting = Counting()  # how errors are counted
    max_batch_seconds: float = 100.0  # largest padded size of a batch
    ctm: Path | None = None  # CTM file with word times of the references, to measure emission delays

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.modes if mode not in ALL_MODES]
        if unknown or not self.modes:
            what = f"unknown decoding modes {unknown}" if unknown else "no decoding mode was given"
            raise ValueError(f"{what}; choose from {', '.join(ALL_MODES)}")
        if not self.chunkings:
            raise ValueError("no chunking was given; choose 'full' or SIZE/LEFT such as 16/4")
        if not self.variants:
            raise ValueError("no variant of the search was given; give at least the plain one")
        for what, values in (
            ("modes", self.modes),
            ("chunkings", [chunking_label(chunking) for chunking in self.chunkings]),
            ("variants", [variant.name for variant in self.variants]),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"{what}: {', '.join(values)}: one is given twice; give each once")
        idle = [variant.name for variant in self.variants[1:]]
        if self.variants[0].decoding.length_penalty:
            idle.insert(0, "length penalty")
        if idle and set(self.modes) <= _PLAIN_SEARCHES:
            raise ValueError(
                f"{', '.join(idle)}: no effect on {' and '.join(self.modes)}; "
                f"add {PREFIX_BEAM} or {RESCORING} to the modes"
            )

    @property
    def searches(self) -> list[Search]:
        """Return each mode with each variant; greedy and attention search only with the first variant."""
        return [
            Search(mode, variant)
            for index, variant in enumerate(self.variants)
            for mode in self.modes
            if index == 0 or mode not in _PLAIN_SEARCHES
        ]
