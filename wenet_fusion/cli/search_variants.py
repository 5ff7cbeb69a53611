"""Variants of the search for `evaluate`: plain, with hot words, a language model or both, and within a grammar."""

import argparse
from dataclasses import replace
from typing import NamedTuple

from wenet_fusion_runtime.cli.search_arguments import search_options, usable_hot_words, with_grammar
from wenet_fusion_runtime.files import file_sha256
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.stream.decoding_options import LANGUAGE_MODEL_WEIGHTS, DecodingOptions

from wenet_fusion.evaluation.options import PLAIN, Variant

_HOT_WORDS, _LANGUAGE_MODEL, _GRAMMAR = "hot words", "language model", "grammar"


class RequestedVariants(NamedTuple):
    """The variants that the arguments request."""

    variants: tuple[Variant, ...]
    all_usable: bool  # False if a hot word cannot be used; such words are printed to standard error


def variants_of(arguments: argparse.Namespace, vocabulary: Vocabulary) -> RequestedVariants:
    """Return the plain search and, if requested, the search with hot words, with the language model, and with both.

    With a grammar, each of these searches is added once more, within the grammar.

    Args:
        arguments: parsed options of `add_search_arguments` and `add_grammar_arguments`.
        vocabulary: vocabulary of the model; hot words must consist of its tokens.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file or a value cannot be used.
    """
    try:
        with_model = search_options(DecodingOptions(), arguments)
    except ImportError as error:  # an optional package; the message says how to install it
        raise ValueError(str(error)) from error
    hot_words, all_usable = usable_hot_words(arguments, vocabulary)
    unused = {name: getattr(DecodingOptions(), name) for name in LANGUAGE_MODEL_WEIGHTS}
    plain = replace(with_model, language_model=None, **unused)
    variants = [Variant(PLAIN, plain)]
    phrases = f"{len(hot_words)} hot word{'s' * (len(hot_words) != 1)}"
    phrases += f" of {arguments.hot_words}" if arguments.hot_words else ""
    if hot_words:
        variants.append(Variant(_HOT_WORDS, replace(plain, hot_words=hot_words), phrases))
    if arguments.language_model is not None:
        model = f"{arguments.language_model} (SHA-256 {file_sha256(arguments.language_model)[:12]})"
        variants.append(Variant(_LANGUAGE_MODEL, with_model, model))
        if hot_words:
            both = replace(with_model, hot_words=hot_words)
            variants.append(Variant(f"{_HOT_WORDS} + {_LANGUAGE_MODEL}", both, f"{phrases}; {model}"))
    within = with_grammar(DecodingOptions(), arguments)
    if within.grammar is not None:
        grammar = f"{arguments.grammar} (SHA-256 {file_sha256(arguments.grammar)[:12]})"
        limit = within.grammar_threshold
        variants += [
            Variant(
                _GRAMMAR if name == PLAIN else f"{name} + {_GRAMMAR}",
                replace(decoding, grammar=within.grammar, grammar_threshold=limit),
                "; ".join(filter(None, (sources, grammar))),
            )
            for name, decoding, sources in variants
        ]
    return RequestedVariants(tuple(variants), all_usable)
