"""The recognizer: a model with decoding options, which creates streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.search.context_terms import TermFinder
from wenet_fusion_runtime.search.grammar.grammar import Grammar
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.search.modes import SEARCH_MODES
from wenet_fusion_runtime.stream.biasing import Biasing
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.endpoints import EndpointRules
from wenet_fusion_runtime.stream.stream import Stream


class Recognizer:
    """A model with decoding options. It creates streams, which may run in different threads.

    Args:
        model: path of an exported file, or a model already loaded.
        options: search mode, weights and endpoint rules.
    Attributes:
        model: the loaded model.
        options: the options with the model's values in place of None.
    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged or does not run as its metadata describe it, or the options do not suit the
            model.
        ImportError: the package that runs the file is not installed.

    >>> import numpy as np
    >>> samples = np.zeros(16000, dtype=np.float32)
    >>> recognizer = Recognizer("final.zip", DecodingOptions(beam_size=5))  # doctest: +SKIP
    >>> with recognizer.create_stream() as stream:  # doctest: +SKIP
    ...     stream.accept_waveform(samples, sample_rate=16000)
    >>> stream.text  # doctest: +SKIP
    'ONE TWO THREE'
    """

    def __init__(self, model: str | Path | AcousticModel, options: DecodingOptions = DecodingOptions()) -> None:
        self.model = model if isinstance(model, AcousticModel) else load_model(model)
        self.options = options.resolved(self.model.meta)
        vocabulary, language_model = self.model.meta.vocabulary, self.options.language_model
        finder = TermFinder(vocabulary, () if language_model is None else language_model.words)
        self._biasing = Biasing(self.options.mode, self.options.scorers(vocabulary), finder)
        self._warm_up()

    def create_stream(
        self,
        chunk: int | None = None,
        left: int | None = None,
        allow_untrained: bool = False,
        endpoint: EndpointRules | None = None,
        hot_words: Sequence[HotWord] = (),
        context: str = "",
        grammar: Grammar | None = None,
    ) -> Stream:
        """Return a new stream.

        Args:
            chunk: encoder frames per chunk, which sets the latency; None is the model's default.
            left: chunks of left context; None is the model's for this chunk size.
            allow_untrained: allow chunk sizes and left contexts that the model was not trained for.
            endpoint: rules that close the stream's segments; None: those of the options.
            hot_words: phrases to prefer or suppress, added to those of the options, whose boosts they override.
            context: a text whose names and rare words become hot words; see `Stream.set_context`.
            grammar: the sentences that may be found; None: the grammar of the options.
        Raises:
            ValueError: the chunk does not suit the model, hot words or grammar are unusable, or they are given in a
                mode that keeps one hypothesis.
        """
        meta = self.model.meta
        chunk = meta.default_chunk if chunk is None else chunk
        left = meta.left(max(1, chunk)) if left is None else left
        meta.check_chunk(chunk, left, allow_untrained)
        options = self.options if endpoint is None else replace(self.options, endpoint=endpoint)
        biasing = self._biasing if grammar is None else self._biasing.with_grammar(grammar, meta.vocabulary)
        biasing = biasing.with_hot_words(hot_words).with_context(context)
        return Stream(self.model, options, chunk, left, biasing)

    def _warm_up(self) -> None:
        """Run the model on silence, so that the first audio does not wait for the slow first calls."""
        scores = self.model.warm_up()
        if SEARCH_MODES[self.options.mode].needs_decoder:
            self.model.rescore([scores.encoder_out], [()])
