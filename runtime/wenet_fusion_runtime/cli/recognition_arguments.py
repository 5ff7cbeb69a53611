"""Arguments of the commands that recognise speech, and the recognizer and streams that are made from them."""

from __future__ import annotations

import argparse
import gc
from dataclasses import replace

from wenet_fusion_runtime.cli.endpoint_arguments import (
    add_endpoint_arguments,
    endpoint_rules,
    seconds_or_off,
    shown_seconds,
)
from wenet_fusion_runtime.cli.search_arguments import (
    add_context_argument,
    add_grammar_arguments,
    add_search_arguments,
    read_context,
    search_options,
    usable_hot_words,
    with_grammar,
)
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.results.formatters import load_formatter
from wenet_fusion_runtime.search.context_terms import TermFinder
from wenet_fusion_runtime.search.hot_words import HotWord, check_hot_words
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.recognizer import Recognizer
from wenet_fusion_runtime.stream.stream import Stream


def add_recognition_arguments(command: argparse.ArgumentParser, defaults: DecodingOptions) -> None:
    """Add the arguments that `build_recognizer` and `create_stream` read.

    Args:
        command: parser of the command.
        defaults: the command's defaults for `commit_seconds` and endpoints.
    """
    group = command.add_argument_group("streaming")
    group.add_argument(
        "--chunk",
        type=int,
        metavar="FRAMES",
        help="chunk size in encoder frames (usually 40 ms each); smaller chunks show text sooner; default: the model's",
    )
    group.add_argument(
        "--left",
        type=int,
        metavar="CHUNKS",
        help="past chunks that attention sees; default: the largest number used in training",
    )
    group.add_argument(
        "--allow_untrained",
        action="store_true",
        help="accept chunk sizes and left contexts that the model was not trained with",
    )
    group.add_argument(
        "--commit_seconds",
        type=seconds_or_off,
        default=defaults.commit_seconds,
        metavar="S|off",
        help="make words final once they are this old; off: once all hypotheses agree on them "
        f"(default: {shown_seconds(defaults.commit_seconds)})",
    )
    group.add_argument(
        "--formatter",
        metavar="NAME",
        help="write numbers and dates of closed segments in digits: wetext[:LANGUAGE], nemo[:LANGUAGE] or "
        "itn[:LANGUAGE], if the package is installed; or MODULE:FUNCTION, a function of yours that maps text to text",
    )
    add_search_arguments(command)
    add_grammar_arguments(command)
    add_context_argument(command)
    add_endpoint_arguments(command, defaults.endpoint)


def build_recognizer(options: argparse.Namespace, nbest: int | None = None) -> tuple[Recognizer, bool]:
    """Load and warm up the model with the arguments of `add_recognition_arguments`.

    Args:
        options: the arguments.
        nbest: number of hypotheses of each result; None: the size of the beam.
    Returns:
        The recognizer, and whether all hot words are usable.
    Raises:
        OSError, ValueError, ImportError: see `Recognizer`.
    """
    decoding = search_options(
        DecodingOptions(nbest=nbest, endpoint=endpoint_rules(options), commit_seconds=options.commit_seconds), options
    )
    decoding = with_grammar(decoding, options)
    if options.formatter is not None:
        decoding = replace(decoding, formatter=load_formatter(options.formatter))
    model = load_model(options.model, units=options.units, backend=options.backend)
    vocabulary = model.meta.vocabulary
    hot_words, all_usable = usable_hot_words(options, vocabulary)
    if options.context is not None:
        known = () if decoding.language_model is None else decoding.language_model.words
        terms = TermFinder(vocabulary, known).find(read_context(options.context))
        hot_words = check_hot_words([*hot_words, *map(HotWord, terms)], vocabulary).usable  # hot words keep boosts
    recognizer = Recognizer(model, replace(decoding, hot_words=hot_words))
    # Exclude the loaded model from garbage collection, which would repeatedly pause recognition for 0.1 s.
    gc.collect()
    gc.freeze()
    return recognizer, all_usable


def create_stream(recognizer: Recognizer, options: argparse.Namespace) -> Stream:
    """Return a new stream with the chunk size and left context of the arguments.

    Raises:
        ValueError: the model was not trained with them.
    """
    return recognizer.create_stream(options.chunk, options.left, options.allow_untrained)
