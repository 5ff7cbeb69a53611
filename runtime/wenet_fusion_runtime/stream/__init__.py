"""Recognise streams, whose audio arrives in pieces of any length, and whole utterances."""
