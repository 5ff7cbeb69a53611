#!/usr/bin/env python3
"""Make a vocabulary (units.txt), and for BPE a sentencepiece model, from transcripts: a Kaldi text file or a list of
training data.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import sentencepiece
from corpus_arguments import SPECIAL_TOKEN_HELP
from kaldi_corpus import Transcript, clean_transcripts, read_transcripts
from list_sample import sample_utterances
from wenet_fusion_runtime.console import HelpFormatter, run_main
from wenet_fusion_runtime.files import replacing, write_text
from wenet_fusion_runtime.results.vocabulary import RESERVED, WORD_START, Vocabulary

from wenet_fusion.data.judgement import Skip, too_many_skipped
from wenet_fusion.data.lists.manifest import ListType
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sequential.shard_list import SequentialConfig
from wenet_fusion.text.special_tokens import (
    SPECIAL_TOKEN_CHOICES,
    SpecialTokens,
    find_special_tokens,
    means_unknown,
    remove_special_tokens,
)
from wenet_fusion.text.tokenizer import split_characters
from wenet_fusion.text.vocabulary_file import format_vocabulary

MAX_SKIPPED = 0.01  # largest share of unreadable utterances in a list of training data


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("text", type=Path, help="lines 'key transcript', or a list of training data: see --data_type")
    parser.add_argument("output_dir", type=Path, help="folder for units.txt and, with --kind bpe, bpe.model, bpe.vocab")
    parser.add_argument("--kind", choices=("words", "char", "bpe"), default="char", help="kind of the tokens")
    parser.add_argument(
        "--vocab_size", type=int, default=5000, help="for bpe: largest number of pieces; reserved tokens are added"
    )
    parser.add_argument("--special_tokens", choices=SPECIAL_TOKEN_CHOICES, default="refuse", help=SPECIAL_TOKEN_HELP)
    parser.add_argument(
        "--data_type",
        choices=("text", "raw", "shard", "lhotse", "sequential"),
        default="text",
        help="type of the first argument: Kaldi's text, or a list of training data as in data.data_type",
    )
    parser.add_argument(
        "--max_utterances",
        type=int,
        default=0,
        help="largest number of utterances of training data to use, spread over the list; 0: all. With data_type "
        "sequential, the first utterances of each shard are used",
    )
    parser.add_argument(
        "--allow_commands", action="store_true", help="for sequential: run the commands of lines 'pipe:COMMAND'"
    )
    parser.add_argument("--nemo_tars", default="", help="for sequential: tars of a NeMo manifest; see data.sequential")
    args = parser.parse_args(arguments)

    if args.data_type == "text":
        transcripts = list(read_transcripts(args.text, args.special_tokens).values())
    else:
        settings = SequentialConfig(allow_commands=args.allow_commands, nemo_tars=args.nemo_tars)
        transcripts = transcripts_of_list(args.text, args.data_type, settings, args.max_utterances, args.special_tokens)
    special = sorted({token for text in transcripts for token in find_special_tokens(text) if not means_unknown(token)})
    if args.special_tokens == "keep":
        transcripts = list(map(remove_special_tokens, transcripts))
    transcripts = [" ".join(text.split()) for text in transcripts if text.strip()]
    if not transcripts:
        raise ValueError(f"{args.text}: holds no words; give a Kaldi text file with lines 'key transcript'")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.kind == "words":
        found = sorted({word for text in transcripts for word in text.split()})
    elif args.kind == "char":
        found = sorted({character for text in transcripts for character in split_characters(text)})
    else:
        found = train_bpe(transcripts, args.vocab_size, args.output_dir)
    if args.special_tokens == "keep":
        found += [WORD_START + token if args.kind == "bpe" else token for token in special]
    tokens = Vocabulary((*RESERVED, *found), "words" if args.kind == "words" else "pieces", str(args.text)).tokens
    path = args.output_dir / "units.txt"
    write_text(path, format_vocabulary(tokens))
    print(f"{path}: {len(tokens)} tokens")
    return 0


def transcripts_of_list(
    path: Path,
    data_type: ListType | Literal["sequential"],
    settings: SequentialConfig,
    count: int,
    special_tokens: SpecialTokens,
) -> list[str]:
    """Return the transcripts of a list of training data; see `sample_utterances`.

    Raises:
        ValueError, OSError: the list is malformed, more than 1 % of it is unreadable, or special tokens are refused.
    """
    written, unreadable = list[Transcript](), list[Skip]()
    sample = sample_utterances(path, data_type, settings, count)
    for item in progress_bar(sample.utterances, sample.total, "transcripts", "utt", leave=False):
        if isinstance(item, Skip):
            unreadable.append(item)
        else:
            written.append(Transcript(item.key, item.text, item.place or item.source.path))
    total = len(written) + len(unreadable)
    if len(unreadable) > MAX_SKIPPED * total:
        raise ValueError(too_many_skipped(unreadable, total, "utterances cannot be read", MAX_SKIPPED))
    return clean_transcripts(path, written, special_tokens)


def train_bpe(transcripts: Sequence[str], vocab_size: int, output_dir: Path) -> list[str]:
    """Train a unigram model (Kudo, 2018), write bpe.model and bpe.vocab, and return the pieces in the model's order.

    All pieces become tokens, even if no transcript uses them, because other texts may need them.

    Raises:
        ValueError: `vocab_size` is smaller than the number of characters.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(transcripts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size + 1,  # sentencepiece counts its <unk>
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",  # decoding returns the encoded transcript unchanged
            max_sentence_length=max(4192, *(len(text.encode("utf-8")) + 1 for text in transcripts)),
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        characters = len({character for text in transcripts for character in split_characters(text)})
        raise ValueError(
            f"cannot train {vocab_size} pieces: {str(error).rpartition('] ')[2]} Each of the {characters} characters "
            "needs a piece; raise --vocab_size or take --kind char"
        ) from error
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    numbers = [number for number in range(trained.get_piece_size()) if not trained.is_unknown(number)]
    if len(numbers) < vocab_size:
        print(f"note: the transcripts support {len(numbers)} pieces, not {vocab_size}", file=sys.stderr)
    with replacing(output_dir / "bpe.model") as temporary:
        temporary.write_bytes(model.getvalue())
    pieces = [trained.id_to_piece(number) for number in numbers]
    scores = [trained.get_score(number) for number in numbers]
    write_text(output_dir / "bpe.vocab", "".join(f"{piece}\t{score:g}\n" for piece, score in zip(pieces, scores)))
    return pieces


if __name__ == "__main__":
    run_main(main)
