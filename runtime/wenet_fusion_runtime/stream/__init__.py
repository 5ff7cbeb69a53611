"""Streams: audio in any cut to results, and the same for whole utterances."""
