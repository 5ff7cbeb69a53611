#!/usr/bin/env python3
"""Write a vocabulary (units.txt), and for BPE a sentencepiece model, from the transcripts of a Kaldi text file."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
from kaldi_corpus import SPECIAL_TOKEN_HELP, read_transcripts
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import replacing, write_text
from wenet_fusion_runtime.results.vocabulary import RESERVED, WORD_START, Vocabulary

from wenet_fusion.text.special_tokens import (
    SPECIAL_TOKEN_CHOICES,
    find_special_tokens,
    means_unknown,
    remove_special_tokens,
)
from wenet_fusion.text.tokenizer import split_characters
from wenet_fusion.text.vocabulary_file import format_vocabulary


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("text", type=Path, help="lines 'key transcript'")
    parser.add_argument("output_dir", type=Path, help="folder for units.txt, and for bpe.model and bpe.vocab")
    parser.add_argument("--kind", choices=("words", "char", "bpe"), default="char", help="kind of the tokens")
    parser.add_argument(
        "--vocab_size", type=int, default=5000, help="bpe: largest number of pieces, without the reserved tokens"
    )
    parser.add_argument("--special_tokens", choices=SPECIAL_TOKEN_CHOICES, default="refuse", help=SPECIAL_TOKEN_HELP)
    args = parser.parse_args(arguments)

    transcripts = list(read_transcripts(args.text, args.special_tokens).values())
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


def train_bpe(transcripts: Sequence[str], vocab_size: int, output_dir: Path) -> list[str]:
    """Train a unigram model (Kudo, 2018), write bpe.model and bpe.vocab, and return its pieces in their order.

    All pieces become tokens, also those that the best segmentation of these transcripts lacks: other texts need them.

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
            normalization_rule_name="identity",  # the transcript that was encoded is the one that is decoded
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
