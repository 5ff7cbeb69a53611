"""Results: tokens, words and timestamps, and their output formats."""
