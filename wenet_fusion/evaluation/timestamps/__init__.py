"""Timestamps of words: CTM and TextGrid files, forced alignment, errors of timestamps."""
