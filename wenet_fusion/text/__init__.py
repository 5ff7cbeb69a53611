"""Vocabularies, tokenizers, and error rates of transcripts."""
