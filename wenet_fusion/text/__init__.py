"""Transcripts to unit ids and back."""
