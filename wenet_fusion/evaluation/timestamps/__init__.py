"""Timestamps of known transcripts: forced alignment, TextGrid files."""
