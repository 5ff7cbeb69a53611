"""Grammars: the sentences that a search may find."""
