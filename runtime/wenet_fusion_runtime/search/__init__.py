"""Searches: from scores of encoder frames to hypotheses. `modes.py` is the table of them."""
